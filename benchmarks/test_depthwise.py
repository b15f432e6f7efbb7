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
    """One filter of kernel^rank a channel, padded so that the size stays."""

    shape: tuple[int, ...]
    kernel: int
    dilation: int = 1
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        dilated = f" rate {self.dilation}" if self.dilation > 1 else ""
        kind = "" if self.dtype == torch.float32 else f" {str(self.dtype).removeprefix('torch.')}"
        return f"{len(self.shape) - 2}D k{self.kernel}{dilated}{kind}"

    @property
    def padding(self) -> int:
        return self.kernel // 2 * self.dilation

    @property
    def gflop(self) -> float:
        return 2e-9 * self.kernel ** (len(self.shape) - 2) * torch.Size(self.shape).numel()

    def tensor(self) -> Tensor:
        return torch.randn(self.shape, device=DEVICE).to(self.dtype)

    def weight(self) -> Tensor:
        return torch.randn((self.shape[1], 1, *[self.kernel] * (len(self.shape) - 2)), device=DEVICE).to(self.dtype)


VOLUME, IMAGE = (1, 32, 64, 64, 64), (8, 64, 256, 256)
FORWARD = (
    *(Problem(VOLUME, k) for k in (3, 5, 7)),
    *(Problem(IMAGE, k) for k in (3, 5, 7)),
    *(Problem((2, 256, 64, 64), 3, rate) for rate in (6, 12, 18)),
    Problem(VOLUME, 3, dtype=torch.bfloat16),
)
BACKWARD = (*(Problem(VOLUME, k) for k in (3, 5, 7)), Problem(IMAGE, 3))


def measured(benchmark: Any, case: str, x: Tensor, peer: str, gflop: float, function: Callable[[], object]) -> None:
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
        family="depthwise",
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
            lambda: function(x, weight, problem.padding, problem.dilation),
        )


@pytest.mark.parametrize("peer", DEPTHWISE_PEERS)
@pytest.mark.parametrize("problem", BACKWARD, ids=str)
def test_forward_and_backward(benchmark, problem, peer):
    function, layout = DEPTHWISE_PEERS[peer]
    x, grad = layout(problem.tensor()).requires_grad_(), layout(problem.tensor())
    weight = problem.weight().requires_grad_()
    measured(
        benchmark,
        f"{problem} forward + backward",
        x,
        peer,
        3 * problem.gflop,
        lambda: torch.autograd.grad(function(x, weight, problem.padding, problem.dilation), (x, weight), grad),
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
