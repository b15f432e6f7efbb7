"""Convolutions of x with one weight, of several families: forward, and with both gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.test_depthwise import measured
from benchmarks.test_norm import DEVICE

#: name -> (function of x and weight, how both are laid out)
Peers = dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]]


@dataclass(frozen=True)
class Convolution:
    family: str
    case: str
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    gflop: float

    def __str__(self) -> str:
        return f"{self.case} {'x'.join(map(str, self.shape))}"

    def inputs(self, layout: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [layout(torch.randn(shape, device=DEVICE)) for shape in (self.shape, self.weight)]


def measure_forward(benchmark: Any, conv: Convolution, peer: str, peers: Peers) -> None:
    function, layout = peers[peer]
    x, weight = conv.inputs(layout)
    with torch.no_grad():
        run = lambda: function(x, weight)  # noqa: E731
        measured(benchmark, f"{conv.case} forward", x, peer, conv.gflop, run, conv.family)


def measure_forward_and_backward(benchmark: Any, conv: Convolution, peer: str, peers: Peers) -> None:
    """With the gradient of x, but for images of few channels, which nobody asks for it."""
    function, layout = peers[peer]
    x, weight = conv.inputs(layout)
    wanted = [weight.requires_grad_()] if x.shape[1] <= 4 else [x.requires_grad_(), weight.requires_grad_()]
    grad = torch.randn_like(function(x, weight))
    gflop = (1 + len(wanted)) * conv.gflop
    run = lambda: torch.autograd.grad(function(x, weight), wanted, grad)  # noqa: E731
    measured(benchmark, f"{conv.case} forward + backward", x, peer, gflop, run, conv.family)
