"""instance_norm_act beside its peers, over the copy of the tensor as the floor."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from benchmarks.peers import NORM_PEERS, eager_norm
from fastseg.ops import instance_norm_act

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((1, 32, 128, 128, 128), (2, 32, 64, 64, 64), (8, 64, 256, 256))
ROUNDS = 15


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def name_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@pytest.fixture(params=SHAPES, ids=name_of)
def shape(request):
    return request.param


@pytest.fixture
def record(benchmark, shape):
    """Runs one peer of one case and says what was run.

    The floor, y.copy_(x) into memory that is there, is timed before every round of every peer: on a shared machine a
    floor from another minute would say little.
    """
    x = torch.randn(shape, device=DEVICE)
    y = torch.empty_like(x)
    floor: list[float] = []

    def copy() -> None:
        start = time.perf_counter()
        y.copy_(x)
        synchronize()
        floor.append(time.perf_counter() - start)

    def run(case: str, peer: str, function) -> None:
        def synchronized():
            function()
            synchronize()

        benchmark.group = f"{case} {name_of(shape)}"
        benchmark.pedantic(synchronized, setup=copy, rounds=ROUNDS, warmup_rounds=3)
        benchmark.extra_info.update(
            case=case, shape=name_of(shape), peer=peer, family="norm", floor=1e3 * statistics.median(floor[3:])
        )

    return run


@pytest.mark.large
@pytest.mark.parametrize("peer", NORM_PEERS)
def test_forward(record, shape, peer):
    make, layout = NORM_PEERS[peer]
    function = make()
    x = layout(torch.randn(shape, device=DEVICE))
    weight, bias = torch.ones(shape[1], device=DEVICE), torch.zeros(shape[1], device=DEVICE)
    with torch.no_grad():
        record("forward", peer, lambda: function(x, weight, bias))


@pytest.mark.large
@pytest.mark.parametrize("peer", NORM_PEERS)
def test_forward_and_backward(record, shape, peer):
    make, layout = NORM_PEERS[peer]
    function = make()
    x = layout(torch.randn(shape, device=DEVICE)).requires_grad_()
    grad = layout(torch.randn(shape, device=DEVICE))
    weight = torch.ones(shape[1], device=DEVICE, requires_grad=True)
    bias = torch.zeros(shape[1], device=DEVICE, requires_grad=True)
    record(
        "forward + backward",
        peer,
        lambda: torch.autograd.grad(function(x, weight, bias), (x, weight, bias), grad),
    )


@pytest.mark.parametrize("peer", ("fastseg", "eager"))
@pytest.mark.parametrize("affine", (True, False), ids=("affine", "plain"))
def test_small_call(benchmark, peer, affine):
    """What a call costs beside its arithmetic."""
    x = torch.randn(1, 4, 8, 8, 8, device=DEVICE)
    parameters = (torch.ones(4, device=DEVICE), torch.zeros(4, device=DEVICE)) if affine else (None, None)
    function = {"fastseg": instance_norm_act, "eager": eager_norm}[peer]
    case = f"small call, {'affine' if affine else 'no affine'}"
    benchmark.group = case
    benchmark.extra_info.update(case=case, shape="1x4x8x8x8", peer=peer, family="norm")
    with torch.no_grad():
        benchmark.pedantic(lambda: function(x, *parameters), rounds=50, iterations=200, warmup_rounds=3)
