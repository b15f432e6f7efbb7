"""instance_norm_act beside its peers, over the copy of the tensor as the floor."""

from __future__ import annotations

import pytest
import torch

from benchmarks.conftest import BesideCopy
from benchmarks.peers import NORM_PEERS, eager_norm
from fastseg.ops import instance_norm_act

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((1, 32, 128, 128, 128), (2, 32, 64, 64, 64), (8, 64, 256, 256))


def name_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@pytest.fixture(params=SHAPES, ids=name_of)
def shape(request):
    return request.param


@pytest.mark.large
@pytest.mark.parametrize("peer", NORM_PEERS)
def test_forward(beside_copy: BesideCopy, shape, peer):
    make, layout = NORM_PEERS[peer]
    function = make()
    x = layout(torch.randn(shape, device=DEVICE))
    weight, bias = torch.ones(shape[1], device=DEVICE), torch.zeros(shape[1], device=DEVICE)
    with torch.no_grad():
        beside_copy("norm", "forward", peer, x, lambda: function(x, weight, bias))


@pytest.mark.large
@pytest.mark.parametrize("peer", NORM_PEERS)
def test_forward_and_backward(beside_copy: BesideCopy, shape, peer):
    make, layout = NORM_PEERS[peer]
    function = make()
    x = layout(torch.randn(shape, device=DEVICE)).requires_grad_()
    grad = layout(torch.randn(shape, device=DEVICE))
    weight = torch.ones(shape[1], device=DEVICE, requires_grad=True)
    bias = torch.zeros(shape[1], device=DEVICE, requires_grad=True)
    beside_copy(
        "norm",
        "forward + backward",
        peer,
        x,
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
