"""Dense 3x3 convolutions of encoders and decoders beside torch's, over the copy of x as the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import channels_last, same
from benchmarks.test_depthwise import measured
from benchmarks.test_norm import DEVICE
from fastseg.ops import aspp_conv2d, aspp_conv3d


@dataclass(frozen=True)
class Problem:
    """A convolution from x's channels to ``outputs``."""

    shape: tuple[int, ...]
    outputs: int

    def __str__(self) -> str:
        return f"{len(self.shape) - 2}D to {self.outputs}"

    @property
    def gflop(self) -> float:
        return 2e-9 * torch.Size(self.shape).numel() * self.outputs * 3 ** (len(self.shape) - 2)

    def inputs(self) -> list[Tensor]:
        weight = torch.randn((self.outputs, self.shape[1], *[3] * (len(self.shape) - 2)), device=DEVICE)
        return [torch.randn(self.shape, device=DEVICE), weight]


#: Of nnU-Net's levels at a patch of 64^3, a first convolution and a decoder's among them, of volumes of four
#: modalities, of a small network, and of U-Nets of images.
PROBLEMS = (
    Problem((2, 1, 64, 64, 64), 32),
    Problem((2, 32, 64, 64, 64), 32),
    Problem((2, 64, 64, 64, 64), 32),
    Problem((2, 64, 32, 32, 32), 64),
    Problem((2, 128, 16, 16, 16), 128),
    Problem((2, 256, 8, 8, 8), 256),
    Problem((2, 320, 4, 4, 4), 320),
    Problem((1, 4, 64, 64, 64), 16),
    Problem((1, 16, 64, 64, 64), 16),
    Problem((2, 3, 256, 256), 64),
    Problem((2, 64, 256, 256), 64),
    Problem((2, 128, 128, 128), 128),
    Problem((2, 256, 64, 64), 256),
    Problem((2, 512, 32, 32), 512),
)


def fused(x: Tensor, weight: Tensor) -> Tensor:
    return (aspp_conv2d if x.ndim == 4 else aspp_conv3d)(x, [weight], dilations=[1])


def eager(x: Tensor, weight: Tensor) -> Tensor:
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, padding=1)


#: name -> (function, how its inputs are laid out)
PEERS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "fastseg": (fused, same),
    "fastseg channels-last": (fused, channels_last),
    "eager": (eager, same),
    "eager channels-last": (eager, channels_last),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward(benchmark, problem, peer):
    function, layout = PEERS[peer]
    x, weight = map(layout, problem.inputs())
    with torch.no_grad():
        measured(benchmark, f"{problem} forward", x, peer, problem.gflop, lambda: function(x, weight), "dense")


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward_and_backward(benchmark, problem, peer):
    """With the gradient of x, but for images of few channels, which nobody asks for it."""
    function, layout = PEERS[peer]
    x, weight = map(layout, problem.inputs())
    few = x.shape[1] <= 4
    wanted = [weight.requires_grad_()] if few else [x.requires_grad_(), weight.requires_grad_()]
    grad = torch.randn_like(function(x, weight))
    gflop = (2 if few else 3) * problem.gflop
    run = lambda: torch.autograd.grad(function(x, weight), wanted, grad)  # noqa: E731
    measured(benchmark, f"{problem} forward + backward", x, peer, gflop, run, "dense")
