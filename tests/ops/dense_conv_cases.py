"""Convolutions that tests of dense_conv run, beside torch's and float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.ops import dense_conv, dense_conv_transpose
from tests.support import assert_within_budget, run

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A convolution, or the transposed one of these numbers."""

    batch: int
    inputs: int
    outputs: int
    size: Axes
    kernel: Axes
    stride: Axes
    padding: Axes
    dilation: Axes = ()
    output_padding: Axes = ()
    transposed: bool = False

    def __str__(self) -> str:
        name = "transposed " if self.transposed else ""
        numbers = f"{self.size} k{self.kernel} s{self.stride} p{self.padding} d{self.axes['dilation']}"
        return f"{name}{self.inputs}-{self.outputs} {numbers}"

    @property
    def axes(self) -> dict[str, Any]:
        axes = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation or (1,) * len(self.size)}
        return {**axes, "output_padding": self.output_padding or (0,) * len(self.size)} if self.transposed else axes

    def ours(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        op: Callable[..., Tensor] = dense_conv_transpose if self.transposed else dense_conv
        return op(x, weight, bias, **self.axes)

    def torchs(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = len(self.size)
        op: Any = getattr(F, f"conv_transpose{rank}d" if self.transposed else f"conv{rank}d")
        return op(x, weight, bias, **self.axes)

    def inputs_of(self, dtype: torch.dtype) -> list[Tensor]:
        """x, weight, bias and the gradient of y."""
        generator = torch.Generator().manual_seed(self.inputs)
        channels = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        shapes = ((self.batch, self.inputs, *self.size), (*channels, *self.kernel), (self.outputs,))
        x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
        grad = torch.randn(self.torchs(x, weight).shape, generator=generator)
        return [t.to(dtype) for t in (x, weight, bias, grad)]

    def check(self, dtype: torch.dtype, layout: str) -> None:
        """y and all gradients, within the error budget."""
        numbers = self.inputs_of(dtype)
        # torch's of 16 bit has NaN in some gradients: rounded from float32 they are as good as can be.
        wide = [t.float() for t in numbers] if dtype.itemsize == 2 else numbers
        ours, theirs = run(self.ours, numbers, layout), [t.to(dtype) for t in run(self.torchs, wide)]
        exact = run(self.torchs, [t.double() for t in numbers])
        sizes = run(self.torchs, [t.double().abs() for t in numbers])
        for name, actual, truth, peer, terms in zip(
            ("y", "dx", "dweight", "dbias"), ours, exact, theirs, sizes, strict=True
        ):
            assert_within_budget(actual, truth, peer, name, terms=terms.max().item())
