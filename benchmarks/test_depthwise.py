"""Depthwise and depthwise-separable convolutions beside torch's, over the copy of the tensor as the floor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import rounds_for, synchronize, synchronized
from benchmarks.peers import DEPTHWISE_PEERS, SEPARABLE_PEERS
from benchmarks.test_norm import DEVICE, name_of


@dataclass(frozen=True)
class Problem:
    """One filter of kernel^rank a channel, padded so that the size stays, or with a stride is divided by it."""

    shape: tuple[int, ...]
    kernel: int
    dilation: int = 1
    dtype: torch.dtype = torch.float32
    stride: int = 1

    def __str__(self) -> str:
        dilated = f" rate {self.dilation}" if self.dilation > 1 else ""
        kind = "" if self.dtype == torch.float32 else f" {str(self.dtype).removeprefix('torch.')}"
        strided = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{len(self.shape) - 2}D k{self.kernel}{strided}{dilated}{kind}"

    @property
    def padding(self) -> int:
        return self.kernel // 2 * self.dilation

    @property
    def gflop(self) -> float:
        return 2e-9 * (self.kernel / self.stride) ** (len(self.shape) - 2) * torch.Size(self.shape).numel()

    def tensor(self) -> Tensor:
        return torch.randn(self.shape, device=DEVICE).to(self.dtype)

    def weight(self) -> Tensor:
        return torch.randn((self.shape[1], 1, *[self.kernel] * (len(self.shape) - 2)), device=DEVICE).to(self.dtype)


VOLUME, IMAGE = (1, 32, 64, 64, 64), (8, 64, 256, 256)
#: Of ConvNeXt, EfficientNet and MobileNet: small images of many channels, strides, channels that fill no vector.
ENCODERS = (
    Problem((8, 96, 56, 56), 7),
    Problem((8, 768, 7, 7), 7),
    Problem((8, 144, 56, 56), 5, stride=2),
    Problem((8, 480, 14, 14), 5),
    Problem((8, 96, 112, 112), 3, stride=2),
    Problem((8, 24, 112, 112), 3),
)
FORWARD = (
    *(Problem(VOLUME, k) for k in (3, 5, 7)),
    *(Problem(IMAGE, k) for k in (3, 5, 7)),
    *(Problem((2, 256, 64, 64), 3, rate) for rate in (6, 12, 18)),
    Problem(VOLUME, 3, dtype=torch.bfloat16),
    *ENCODERS,
)
BACKWARD = (*(Problem(VOLUME, k) for k in (3, 5, 7)), Problem(IMAGE, 3), *ENCODERS)


def measured(
    benchmark: Any,
    case: str,
    x: Tensor,
    peer: str,
    gflop: float,
    function: Callable[[], object],
    family: str = "depthwise",
) -> None:
    """Runs one peer of one case; the floor is timed before each round, as in test_norm.py."""
    y, source = torch.empty_like(x), x.detach()
    floor: list[float] = []

    def copy() -> None:
        start = time.perf_counter()
        y.copy_(source)
        synchronize()
        floor.append(time.perf_counter() - start)

    shape = name_of(x.shape)
    benchmark.group = f"{case} {shape}"
    timed = synchronized(function)
    benchmark.pedantic(timed, setup=copy, rounds=rounds_for(timed), warmup_rounds=1)
    benchmark.extra_info.update(
        case=case,
        shape=shape,
        peer=peer,
        family=family,
        floor=1e3 * statistics.median(floor[1:]),
        gflop=gflop,
    )


@pytest.mark.parametrize("peer", DEPTHWISE_PEERS)
@pytest.mark.parametrize("problem", FORWARD, ids=str)
def test_forward(benchmark, problem, peer):
    function, layout = DEPTHWISE_PEERS[peer]
    x, weight = layout(problem.tensor()), problem.weight()
    with torch.no_grad():
        measured(
            benchmark,
            f"{problem} forward",
            x,
            peer,
            problem.gflop,
            lambda: function(x, weight, problem.padding, problem.dilation, problem.stride),
        )


@pytest.mark.parametrize("peer", DEPTHWISE_PEERS)
@pytest.mark.parametrize("problem", BACKWARD, ids=str)
def test_forward_and_backward(benchmark, problem, peer):
    function, layout = DEPTHWISE_PEERS[peer]
    x, weight = layout(problem.tensor()).requires_grad_(), problem.weight().requires_grad_()
    convolve = lambda: function(x, weight, problem.padding, problem.dilation, problem.stride)  # noqa: E731
    grad = torch.randn_like(convolve())
    measured(
        benchmark,
        f"{problem} forward + backward",
        x,
        peer,
        3 * problem.gflop,
        lambda: torch.autograd.grad(convolve(), (x, weight), grad),
    )


@pytest.mark.parametrize("peer", SEPARABLE_PEERS)
def test_separable(benchmark, peer):
    function, layout = SEPARABLE_PEERS[peer]
    problem = Problem(VOLUME, 3)
    x, weight = layout(problem.tensor()), problem.weight()
    pointwise = torch.randn((64, 32, 1, 1, 1), device=DEVICE)
    gflop = problem.gflop + 2e-9 * 64 * x.numel()
    with torch.no_grad():
        measured(benchmark, "separable 3D k3 to 64 forward", x, peer, gflop, lambda: function(x, weight, pointwise))
