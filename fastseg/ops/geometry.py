"""Stride, padding and dilation of convolutions: what users may write, and what kernels are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

Axes = int | Sequence[int]
Padding = int | Sequence[int] | str


class Geometry(NamedTuple):
    """One number for each spatial axis. ``padding`` lies before the image; what lies behind follows from ``size``."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    size: list[int]


def axes(value: Axes, rank: int) -> tuple[int, ...]:
    """One number for each axis, as a layer has them that nobody changed."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def per_axis(op: str, name: str, value: Axes, rank: int, least: int) -> list[int]:
    """One integer for all axes, or one for each."""
    numbers = list(value) if isinstance(value, Sequence) else [value] * rank
    if len(numbers) == 1:
        numbers *= rank
    valid = len(numbers) == rank
    for number in numbers:  # half the cost of any() with a generator, in every call
        valid = valid and isinstance(number, int) and number >= least
    if not valid:
        raise ValueError(f"{op}: {name} is {value!r}, expected an integer >= {least} or {rank} of them")
    return numbers


def convolution(op: str, x: Tensor, weight: Tensor, stride: Axes, padding: Padding, dilation: Axes) -> Geometry:
    """The geometry of a convolution; ValueError where its output would have no pixel."""
    rank = x.ndim - 2
    strides = per_axis(op, "stride", stride, rank, 1)
    dilations = per_axis(op, "dilation", dilation, rank, 1)
    reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{op}: padding is {padding!r}, expected integers, 'same' or 'valid'")
        if padding == "same" and strides != [1] * rank:
            raise ValueError(f"{op}: padding is 'same' with stride {stride!r}, expected stride 1")
        # As torch pads: where the two sides differ, the extra element stands behind.
        before = [r // 2 if padding == "same" else 0 for r in reach]
        both = reach if padding == "same" else [0] * rank
    else:
        before = per_axis(op, "padding", padding, rank, 0)
        both = [2 * p for p in before]
    size = [
        (image + pads - r - 1) // s + 1 for image, pads, r, s in zip(x.shape[2:], both, reach, strides, strict=True)
    ]
    if min(size) < 1:
        raise ValueError(
            f"{op}: x of spatial size {tuple(x.shape[2:])} gives an output of size {tuple(size)}, expected at least "
            f"one pixel: the kernel reaches over {tuple(r + 1 for r in reach)} pixels, padding is {padding!r}"
        )
    return Geometry(strides, before, dilations, size)


def transposed(
    op: str, x: Tensor, weight: Tensor, stride: Axes, padding: Axes, output_padding: Axes, dilation: Axes
) -> Geometry:
    """The geometry of the convolution whose gradient a transposed convolution is; ``size`` is the result's."""
    rank = x.ndim - 2
    strides = per_axis(op, "stride", stride, rank, 1)
    dilations = per_axis(op, "dilation", dilation, rank, 1)
    paddings = per_axis(op, "padding", padding, rank, 0)
    extra = per_axis(op, "output_padding", output_padding, rank, 0)
    for e, s, d in zip(extra, strides, dilations, strict=True):
        if e >= max(s, d):
            raise ValueError(f"{op}: output_padding is {output_padding!r}, expected less than stride or dilation")
    size = [
        (image - 1) * s - 2 * p + d * (k - 1) + e + 1
        for image, s, p, d, k, e in zip(x.shape[2:], strides, paddings, dilations, weight.shape[2:], extra, strict=True)
    ]
    if min(size) < 1:
        raise ValueError(
            f"{op}: x of spatial size {tuple(x.shape[2:])} gives an output of size {tuple(size)}, expected at least "
            f"one pixel: padding is {padding!r}"
        )
    return Geometry(strides, paddings, dilations, size)
