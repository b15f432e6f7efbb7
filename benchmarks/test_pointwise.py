"""1x1 convolutions beside torch's, over the copy of x as the floor."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from benchmarks.pointwise_peers import POINTWISE_PEERS, SEPARABLE_IMAGE_PEERS
from benchmarks.test_depthwise import measured
from benchmarks.test_norm import DEVICE


@dataclass(frozen=True)
class Problem:
    """A 1x1 convolution from x's channels to ``outputs``, or with a kernel the depthwise one of that size before it."""

    shape: tuple[int, ...]
    outputs: int
    kernel: int = 1

    def __str__(self) -> str:
        return f"{f'separable k{self.kernel} ' if self.kernel > 1 else ''}to {self.outputs}"

    @property
    def gflop(self) -> float:
        taps = self.kernel**2 if self.kernel > 1 else 0
        return 2e-9 * torch.Size(self.shape).numel() * (self.outputs + taps)

    def tensor(self) -> Tensor:
        return torch.randn(self.shape, device=DEVICE)

    def weight(self) -> Tensor:
        return torch.randn((self.outputs, self.shape[1], *[1] * (len(self.shape) - 2)), device=DEVICE)


#: Of ConvNeXt, EfficientNet and ResNet, of a head and a bottleneck, and of a volume.
PROBLEMS = (
    Problem((8, 96, 56, 56), 384),
    Problem((8, 768, 7, 7), 3072),
    Problem((8, 144, 56, 56), 24),
    Problem((8, 40, 28, 28), 240),
    Problem((8, 1152, 7, 7), 320),
    Problem((2, 64, 64, 64), 16),
    Problem((2, 2048, 8, 8), 512),
    Problem((2, 32, 256, 256), 2),
    Problem((1, 32, 64, 64, 64), 64),
)
SEPARABLE = (Problem((2, 512, 8, 8), 512, 3), Problem((8, 64, 56, 56), 128, 3))


@pytest.mark.parametrize("peer", POINTWISE_PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward(benchmark, problem, peer):
    function, layout = POINTWISE_PEERS[peer]
    x, weight = layout(problem.tensor()), problem.weight()
    with torch.no_grad():
        measured(benchmark, f"{problem} forward", x, peer, problem.gflop, lambda: function(x, weight), "pointwise")


@pytest.mark.parametrize("peer", POINTWISE_PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward_and_backward(benchmark, problem, peer):
    function, layout = POINTWISE_PEERS[peer]
    x, weight = layout(problem.tensor()).requires_grad_(), problem.weight().requires_grad_()
    grad = torch.randn_like(function(x, weight))
    measured(
        benchmark,
        f"{problem} forward + backward",
        x,
        peer,
        3 * problem.gflop,
        lambda: torch.autograd.grad(function(x, weight), (x, weight), grad),
        "pointwise",
    )


@pytest.mark.parametrize("peer", SEPARABLE_IMAGE_PEERS)
@pytest.mark.parametrize("problem", SEPARABLE, ids=str)
def test_separable(benchmark, problem, peer):
    function, layout = SEPARABLE_IMAGE_PEERS[peer]
    x, pointwise = layout(problem.tensor()), problem.weight()
    weight = torch.randn((x.shape[1], 1, problem.kernel, problem.kernel), device=DEVICE)
    with torch.no_grad():
        run = lambda: function(x, weight, pointwise)  # noqa: E731
        measured(benchmark, f"{problem} forward", x, peer, problem.gflop, run, "pointwise")
