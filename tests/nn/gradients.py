"""Outputs of layers with all their gradients, for comparison with torch's."""

from __future__ import annotations

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "channel_slice")


def gradients(y: Tensor, *inputs: Tensor) -> list[Tensor]:
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
