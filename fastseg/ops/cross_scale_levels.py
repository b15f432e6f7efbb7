"""Levels of cost volumes: the shapes of a pyramid, and the checks of what is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastseg.backends.views import ELEMENT
from fastseg.ops.arrays import Array, as_tensor, check_numbers
from fastseg.ops.guided_images import check_guided_images

#: csrc/include/fastseg/cross_scale.h has places for so many. The sixteenth of a pyramid has a pixel for 32,768.
MOST_LEVELS = 16
_LARGEST_LAMBDA = 1e20
_LARGEST_DISPARITY = 1 << 30


class CrossScaleLevel(NamedTuple):
    """A level of a pyramid of cost volumes."""

    shape: tuple[int, ...]
    min_disparity: int


def cross_scale_shapes(shape: Sequence[int], levels: int, min_disparity: int = 0) -> list[CrossScaleLevel]:
    """The cost volumes that the pyramid form of :func:`~fastseg.ops.cross_scale_aggregate` expects, finest first.

    A level has half the pixels along each axis, rounded up, of the level before, and the disparities that are looked up
    there: those of ``d`` at ``(d + 1) // 2``. A level may have more disparities after the last of these.

    Args:
        shape: of the finest level, (D, H, W) or (B, D, H, W).
        levels: how many, 1 to 16, with the finest.
        min_disparity: the disparity at which the finest level starts.

    Returns:
        For every level its shape and the disparity at which it starts.

    Raises:
        ValueError: a number out of its range, or another shape.
    """
    op = "cross_scale_shapes"
    if len(shape) not in (3, 4) or 0 in shape[-3:] or min(shape) < 0:
        raise ValueError(f"{op}: shape is {tuple(shape)}, expected (D, H, W) or (B, D, H, W) of at least one pixel")
    if not (1 <= levels <= MOST_LEVELS and levels == int(levels)):
        raise ValueError(f"{op}: levels is {levels}, expected a whole number from 1 to {MOST_LEVELS}")
    check_min_disparity(op, min_disparity)
    return pyramid_levels(shape, int(levels), int(min_disparity))


def pyramid_levels(shape: Sequence[int], levels: int, min_disparity: int) -> list[CrossScaleLevel]:
    *batch, disparities, height, width = shape
    first, last = min_disparity, min_disparity + disparities - 1
    result = []
    for _ in range(levels):
        result.append(CrossScaleLevel((*batch, last - first + 1, height, width), first))
        first, last = (first + 1) // 2, (last + 1) // 2
        height, width = (height + 1) // 2, (width + 1) // 2
    return result


def is_pyramid(costs: Sequence[Tensor]) -> bool:
    """Levels of one shape are full-size levels, also where a pyramid would have that shape (a single pixel)."""
    return any(cost.shape != costs[0].shape for cost in costs)


def check_min_disparity(op: str, min_disparity: int) -> None:
    if not (abs(min_disparity) <= _LARGEST_DISPARITY and min_disparity == int(min_disparity)):
        raise ValueError(f"{op}: min_disparity is {min_disparity}, expected a whole number of pixels, 2^30 at most")


def check_lambda(op: str, lambda_: float) -> None:
    if not 0 <= lambda_ <= _LARGEST_LAMBDA:  # written so that NaN is refused
        raise ValueError(f"{op}: lambda_ is {lambda_}, expected a number from 0 to {_LARGEST_LAMBDA:g}")


def levels_as_tensors(op: str, costs: Sequence[Array]) -> list[Tensor]:
    """The levels as tensors.

    Raises:
        ValueError: no level, or too many.
        TypeError: no sequence, or levels of several kinds of array.
    """
    if not isinstance(costs, (list, tuple)):
        raise TypeError(
            f"{op}: costs is a {type(costs).__name__}, expected a list or tuple of cost volumes, the finest level "
            "first; list(costs) makes one of levels that are stacked"
        )
    if not 1 <= len(costs) <= MOST_LEVELS:
        raise ValueError(f"{op}: costs has {len(costs)} levels, expected 1 to {MOST_LEVELS}")
    levels = [as_tensor(op, f"costs[{s}]", cost) for s, cost in enumerate(costs)]
    for s, cost in enumerate(costs):
        if _kind(cost) is not _kind(costs[0]):
            raise TypeError(
                f"{op}: costs[{s}] is a {type(cost).__name__}, expected a {type(costs[0]).__name__} as costs[0] is"
            )
    return levels


def _kind(array: Array) -> Any:
    """A Parameter is a tensor, and a memmap a NumPy array."""
    return next((kind for kind in (Tensor, np.ndarray) if isinstance(array, kind)), type(array))


def check_levels(op: str, levels: Sequence[Tensor], min_disparity: int) -> None:
    """The levels' dtypes, devices and shapes: all of one shape, or a pyramid.

    Raises:
        ValueError: another shape, several devices.
        TypeError: another dtype, or several.
    """
    finest = levels[0]
    if finest.dtype not in ELEMENT:
        raise TypeError(f"{op}: costs[0] is {finest.dtype}, expected float32, float64, float16 or bfloat16")
    if finest.ndim not in (3, 4) or 0 in finest.shape[-3:]:
        raise ValueError(
            f"{op}: costs[0] has shape {tuple(finest.shape)}, expected (D, H, W) or (B, D, H, W) with at least one "
            "disparity and pixel"
        )
    for s, level in enumerate(levels):
        if level.dtype != finest.dtype:
            raise TypeError(f"{op}: costs[{s}] is {level.dtype}, expected costs[0]'s dtype {finest.dtype}")
        if level.device != finest.device:
            raise ValueError(f"{op}: costs[{s}] is on {level.device}, expected costs[0]'s device {finest.device}")
    if not is_pyramid(levels):
        return
    for s, expected in enumerate(pyramid_levels(finest.shape, len(levels), min_disparity)):
        shape = levels[s].shape
        *batch, disparities, height, width = expected.shape
        same = len(shape) == finest.ndim and (*shape[:-3], *shape[-2:]) == (*batch, height, width)
        if not same or shape[-3] < disparities:
            axes = ", ".join(map(str, (*batch, "D", height, width)))
            raise ValueError(
                f"{op}: costs[{s}] has shape {tuple(shape)}, expected ({axes}) with D >= {disparities}, disparities "
                f"from {expected.min_disparity} on, as level {s} of a pyramid over costs[0] of shape "
                f"{tuple(finest.shape)} (cross_scale_shapes gives all), or costs[0]'s shape for every level"
            )


def guides_as_tensors(
    op: str, guide: Array | Sequence[Array] | None, levels: Sequence[Tensor]
) -> tuple[list[Tensor], bool]:
    """A guide for each level, none without ``guide``, and whether they all are one.

    Raises:
        ValueError: another number of guides or another size, different devices, NaN or infinity.
        TypeError: no array, or of another dtype.
    """
    if guide is None:
        return [], False
    several = isinstance(guide, (list, tuple))
    if not several and is_pyramid(levels):
        raise ValueError(
            f"{op}: guide is one array, expected a sequence of {len(levels)}, one of each level's size, beside levels "
            "that are a pyramid"
        )
    arrays = list(guide) if several else [guide] * len(levels)
    if len(arrays) != len(levels):
        raise ValueError(f"{op}: guide has {len(arrays)} images, expected {len(levels)}, one for each level of costs")
    shared = not is_pyramid(levels) and all(array is arrays[0] for array in arrays)
    names = [f"guide[{s}]" if several else "guide" for s in range(len(levels))]
    guides = [as_tensor(op, name, array) for name, array in zip(names, arrays, strict=True)]
    for s in range(1 if shared else len(levels)):
        check_guided_images(op, levels[s], guides[s], (f"costs[{s}]", names[s]))
    return guides, shared


def check_levels_numbers(op: str, levels: Sequence[Tensor]) -> None:
    for s, level in enumerate(levels):
        check_numbers(op, f"costs[{s}]", level)
