"""ASPP, dense and separable, beside torch's convolutions and a concatenation; MONAI's SimpleASPP before and after."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastseg
from benchmarks.conftest import rounds_for, synchronize
from benchmarks.context_peers import DENSE_PEERS, SEPARABLE_PEERS
from benchmarks.peers import channels_last, same
from benchmarks.test_norm import DEVICE, name_of

SHAPE, OUTPUTS, DILATIONS = (2, 256, 64, 64), 256, (1, 6, 12, 18)
KINDS = {"dense": DENSE_PEERS, "separable": SEPARABLE_PEERS}


def gflop(kind: str) -> float:
    """Of the taps that do not fall on padding."""
    batch, channels, height, width = SHAPE
    real = sum((height + 2 * max(height - d, 0)) * (width + 2 * max(width - d, 0)) for d in DILATIONS)
    if kind == "dense":
        return 2e-9 * batch * channels * OUTPUTS * real
    return 2e-9 * batch * channels * (real + len(DILATIONS) * OUTPUTS * height * width)


def weights_of(kind: str, layout: Callable[[Tensor], Tensor]) -> list[list[Tensor]]:
    def filters(*shape: int) -> list[Tensor]:
        return [layout(torch.randn(shape, device=DEVICE) / shape[1]) for _ in DILATIONS]

    if kind == "dense":
        return [filters(OUTPUTS, SHAPE[1], 3, 3)]
    return [filters(SHAPE[1], 1, 3, 3), filters(OUTPUTS, SHAPE[1], 1, 1)]


def record(benchmark, case: str, peer: str, work: float | None, function: Callable[[], object], shape=SHAPE) -> None:
    def run() -> None:
        function()
        synchronize()

    benchmark.group = f"{case} {name_of(shape)}"
    benchmark.extra_info.update(case=case, shape=name_of(shape), peer=peer, family="context", gflop=work)
    benchmark.pedantic(run, rounds=rounds_for(run, 9))


CASES = [(kind, peer) for kind, peers in KINDS.items() for peer in peers]


@pytest.mark.large
@pytest.mark.parametrize("kind,peer", CASES)
def test_forward(benchmark, kind, peer):
    make, layout = KINDS[kind][peer]
    function, x, weights = make(), layout(torch.randn(SHAPE, device=DEVICE)), weights_of(kind, layout)
    with torch.no_grad():
        record(benchmark, f"{kind} ASPP 1/6/12/18 forward", peer, gflop(kind), lambda: function(x, *weights, DILATIONS))


@pytest.mark.large
@pytest.mark.parametrize("kind,peer", CASES)
def test_forward_and_backward(benchmark, kind, peer):
    make, layout = KINDS[kind][peer]
    function, x, weights = make(), layout(torch.randn(SHAPE, device=DEVICE)), weights_of(kind, layout)
    leaves = [x, *(weight for kind_of_weight in weights for weight in kind_of_weight)]
    for leaf in leaves:
        leaf.requires_grad_()
    grad = torch.randn_like(function(x, *weights, DILATIONS))
    record(
        benchmark,
        f"{kind} ASPP 1/6/12/18 forward + backward",
        peer,
        3 * gflop(kind),
        lambda: torch.autograd.grad(function(x, *weights, DILATIONS), leaves, grad),
    )


VARIANTS = {
    "stock": (same, lambda network: network),
    "stock channels-last": (channels_last, lambda network: network.to(memory_format=torch.channels_last)),
    "accelerate": (same, fastseg.accelerate),
    "accelerate channels-last": (channels_last, lambda network: fastseg.accelerate(network, channels_last=True)),
}


@pytest.mark.parametrize("peer", VARIANTS)
def test_simple_aspp_inference(benchmark, peer):
    blocks = pytest.importorskip("monai.networks.blocks.aspp")
    torch.manual_seed(0)
    layout, variant = VARIANTS[peer]
    shape = (2, 128, 64, 64)
    model = variant(copy.deepcopy(blocks.SimpleASPP(2, shape[1], 32)).eval().to(DEVICE))
    x = layout(torch.randn(shape, device=DEVICE))
    with torch.inference_mode():
        record(benchmark, "MONAI SimpleASPP inference", peer, None, lambda: model(x), shape)
