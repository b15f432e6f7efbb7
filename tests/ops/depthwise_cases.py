"""What the tests of the depthwise family share: geometries, the truth in wider arithmetic, and sizes of terms."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """x (batch, channels, *image) and filters of one depthwise convolution."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    batch: int = 2
    channels: int = 5
    multiplier: int = 1

    def __str__(self) -> str:
        numbers = zip("ikspd", (self.image, self.kernel, self.stride, self.padding, self.dilation), strict=True)
        named = [name + "x".join(map(str, number)) for name, number in numbers]
        return "-".join([*named, f"n{self.batch}", f"c{self.channels}", f"m{self.multiplier}"])

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(
            (i + 2 * p - d * (k - 1) - 1) // s + 1
            for i, k, s, p, d in zip(self.image, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def geometry(self) -> dict[str, tuple[int, ...]]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def inputs(self, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
        """x, weight, bias and the gradient of y, with numbers around one."""
        generator = torch.Generator().manual_seed(seed)
        filters = self.channels * self.multiplier
        shapes = (
            (self.batch, self.channels, *self.image),
            (filters, 1, *self.kernel),
            (filters,),
            (self.batch, filters, *self.size),
        )
        return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def square(rank: int, image: int, kernel: int, stride: int = 1, dilation: int = 1, **more: int) -> Case:
    """The same along each axis, padded as "same" does."""
    padding = dilation * (kernel - 1) // 2
    return Case(*((number,) * rank for number in (image, kernel, stride, padding, dilation)), **more)


#: Every specialised kernel and both strides, in 2-D and 3-D, then what makes them different.
CASES = (
    *(square(2, 19, k, s) for k in (3, 5, 7) for s in (1, 2)),
    *(square(3, 9, k, s) for k in (3, 5, 7) for s in (1, 2)),
    square(2, 70, 3, channels=3),  # several vectors a row, in blocks of four and two and one
    square(2, 150, 5, channels=1),
    square(3, 21, 3, channels=37, batch=1),  # channels that fill no vector
    square(2, 9, 3, channels=70),  # several blocks of channels
    Case((3, 9, 70), *((n, n, n) for n in (3, 1, 1, 1)), channels=80, batch=1),  # the last one with fewer vectors
    *(square(rank, 11 * (4 - rank), k, channels=32) for rank in (2, 3) for k in (3, 5, 7)),  # tiles, and what is over
    Case((8, 1, 20), (3, 1, 3), (1, 3, 1), (1, 1, 1), (1, 1, 1), channels=16),  # its only row is padding
    Case((26, 13), (3, 3), (1, 1), (3, 1), (3, 1), channels=16),
    square(2, 24, 3, dilation=6),
    square(2, 24, 3, dilation=18),  # taps that fall on padding only
    square(2, 24, 5, stride=2, dilation=3),
    square(3, 12, 3, stride=2, dilation=2),
    square(2, 20, 4, stride=3),
    square(2, 13, 3, multiplier=3),
    square(3, 8, 3, stride=2, multiplier=2),
    square(2, 8, 1),
    square(2, 1, 3),
    square(3, 1, 7, channels=2),
    Case((4, 11, 12), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1)),
    Case((5, 11, 12), (3, 1, 1), (2, 1, 1), (1, 0, 0), (1, 1, 1)),
    Case((5, 9, 33), (2, 3, 7), (1, 2, 3), (1, 0, 5), (2, 1, 1)),
    Case((7, 40), (5, 2), (2, 1), (6, 7), (1, 4)),  # more padding than the kernel reaches
    Case((2, 200), (3, 3), (1, 1), (1, 1), (1, 1), batch=3, channels=1),
)

_CONV = {2: F.conv2d, 3: F.conv3d}


def torch_conv(case: Case, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a user writes today."""
    return _CONV[len(case.image)](x, weight, bias, **case.geometry, groups=case.channels)


class Results(NamedTuple):
    y: Tensor
    dx: Tensor
    dweight: Tensor
    dbias: Tensor


def extended(case: Case, inputs: list[Tensor], magnitude: bool = False) -> Results:
    """y and the gradients tap by tap in NumPy's long double, rounded to float64: the truth for float64 inputs.

    With ``magnitude`` the sums of the summands' absolute values: one rounding of that is what a result may be off by
    that is exact for inputs which are each off by a rounding. torch's own error is no sure floor here: MKL sums in
    another order when memory is aligned in another way, and a handful of outputs can be exact by luck.
    """
    x, weight, bias, grad = (t.double().numpy().astype(np.longdouble) for t in inputs)
    if magnitude:
        x, weight, bias, grad = map(np.abs, (x, weight, bias, grad))
    pads = [(0, 0), (0, 0)] + [(p, p + s) for p, s in zip(case.padding, case.stride, strict=True)]
    padded = np.repeat(np.pad(x, pads), case.multiplier, axis=1)
    dpadded = np.zeros_like(padded)
    y = np.zeros(grad.shape, np.longdouble) + bias.reshape(1, -1, *[1] * len(case.image))
    dweight = np.zeros_like(weight)
    channels = (None, slice(None), *[None] * len(case.image))
    for tap in itertools.product(*map(range, case.kernel)):
        at = tuple(
            slice(k * d, k * d + (out - 1) * s + 1, s)
            for k, d, s, out in zip(tap, case.dilation, case.stride, case.size, strict=True)
        )
        window = padded[(..., *at)]
        w = weight[(slice(None), 0, *tap)]
        y += window * w[channels]
        dpadded[(..., *at)] += grad * w[channels]
        dweight[(slice(None), 0, *tap)] = (window * grad).sum((0, *range(2, grad.ndim)))
    inner = tuple(slice(p, p + i) for p, i in zip(case.padding, case.image, strict=True))
    dx = dpadded[(..., *inner)].reshape(case.batch, case.channels, case.multiplier, *case.image).sum(2)
    results = (y, dx, dweight, grad.sum((0, *range(2, grad.ndim))))
    return Results(*(torch.from_numpy(r.astype(np.float64)) for r in results))


def extended_transposed(case: Case, inputs: list[Tensor], magnitude: bool = False) -> Results:
    """The same of the transposed convolution, with its own x, weight, bias and gradient of y: ``case`` is the
    convolution from its y to its x, whose gradient it is."""
    x, weight, bias, grad = inputs
    there = extended(case, [grad, weight, torch.zeros_like(bias), x], magnitude)
    shift, grad = (t.double().abs() if magnitude else t.double() for t in (bias, grad))
    dbias = grad.numpy().astype(np.longdouble).sum((0, *range(2, grad.ndim))).astype(np.float64)
    y = there.dx + shift.view(1, -1, *[1] * len(case.image))
    return Results(y, there.y, there.dweight, torch.from_numpy(dbias))


def gradients(y: Tensor, leaves: list[Tensor], grad: Tensor) -> Results:
    return Results(y.detach(), *torch.autograd.grad(y, leaves, grad))
