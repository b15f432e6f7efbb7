"""cross_scale_aggregate beside eager PyTorch, torch.compile and NumPy.

The floor is a copy of as many bytes: half of what a call must read and write is read and half is written. Backward is
timed with its forward.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import rounds_for
from benchmarks.cross_scale_peers import CROSS_SCALE_PEERS, Function
from fastseg.ops import cross_scale_aggregate, cross_scale_shapes, guided_filter

VOLUME = (64, 375, 450)
LEVELS = 4
FORMS = ("full size", "pyramid")


def levels_of(form: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [level.shape if form == "pyramid" else VOLUME for level in cross_scale_shapes(VOLUME, LEVELS)]
    return [torch.rand(shape, generator=generator).to(dtype) for shape in shapes]


def copying(elements: int, dtype: torch.dtype) -> Callable[[], None]:
    """Moves half as many elements from one place to another, which reads and writes as many."""
    source = torch.ones(elements // 2, dtype=dtype)
    target = torch.zeros_like(source)

    def copy() -> None:
        target.copy_(source)

    return copy


def run(benchmark, case: str, peer: str, function: Callable[[], object], floor_of: Callable[[], None]) -> None:
    floor: list[float] = []

    def time_floor() -> None:
        start = time.perf_counter()
        floor_of()
        floor.append(time.perf_counter() - start)

    shape = "x".join(map(str, VOLUME))
    benchmark.group = f"{case} {shape}"
    benchmark.pedantic(function, setup=time_floor, rounds=rounds_for(function), warmup_rounds=1)
    benchmark.extra_info.update(
        case=case, shape=shape, peer=peer, family="cross_scale", floor=1e3 * statistics.median(floor[1:])
    )


@pytest.mark.large
@pytest.mark.parametrize("peer", CROSS_SCALE_PEERS)
@pytest.mark.parametrize("form", FORMS)
def test_forward(benchmark, form, peer):
    costs, function = levels_of(form), CROSS_SCALE_PEERS[peer]()
    moved = sum(cost.numel() for cost in costs) + costs[0].numel()
    run(benchmark, f"4 levels, {form}, float32", peer, lambda: function(costs), copying(moved, torch.float32))


@pytest.mark.large
@pytest.mark.parametrize("peer", [peer for peer in CROSS_SCALE_PEERS if peer != "NumPy"])
@pytest.mark.parametrize("form", FORMS)
def test_forward_bfloat16(benchmark, form, peer):
    costs, function = levels_of(form, torch.bfloat16), CROSS_SCALE_PEERS[peer]()
    moved = sum(cost.numel() for cost in costs) + costs[0].numel()
    run(benchmark, f"4 levels, {form}, bfloat16", peer, lambda: function(costs), copying(moved, torch.bfloat16))


@pytest.mark.large
@pytest.mark.parametrize("peer", [peer for peer in CROSS_SCALE_PEERS if peer != "NumPy"])
@pytest.mark.parametrize("form", FORMS)
def test_forward_and_backward(benchmark, form, peer):
    costs = [cost.requires_grad_() for cost in levels_of(form)]
    function: Function = CROSS_SCALE_PEERS[peer]()
    grad = torch.ones(VOLUME)
    moved = 2 * (sum(cost.numel() for cost in costs) + costs[0].numel())

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(costs), costs, grad)  # type: ignore[arg-type]

    run(benchmark, f"4 levels, {form}, float32, forward and backward", peer, both, copying(moved, torch.float32))


@pytest.mark.large
@pytest.mark.parametrize("peer", ("fastseg", "each level filtered"))
def test_one_guide(benchmark, peer):
    """What the short cut saves: one guided filter instead of four."""
    costs, guide = levels_of("full size"), torch.rand(3, *VOLUME[1:], generator=torch.Generator().manual_seed(1))
    settings = {"radius": 9, "eps": 1e-4}

    def at_once() -> Tensor:
        return cross_scale_aggregate(costs, guide=guide, **settings)

    def each() -> Tensor:
        return cross_scale_aggregate([guided_filter(guide, cost, **settings) for cost in costs])

    function = at_once if peer == "fastseg" else each
    moved = sum(cost.numel() for cost in costs) + costs[0].numel()
    run(benchmark, "4 levels filtered by one colour guide, float32", peer, function, copying(moved, torch.float32))
