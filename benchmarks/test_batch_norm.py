"""batch_norm_act in training beside torch's batch norm and ReLU, over the copy of the tensor as the floor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conftest import BesideCopy
from benchmarks.peers import channels_last, compiled, same, with_autotune
from fastseg.ops import batch_norm_act

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((2, 64, 256, 256), (8, 16, 256, 256), (2, 256, 64, 64), (2, 32, 64, 64, 64))


def fused(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return batch_norm_act(x, weight, bias, mean, var, training=True)


def eager(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """As networks have it: ReLU(inplace=True) on the output of the norm."""
    return F.relu_(F.batch_norm(x, mean, var, weight, bias, training=True))


#: name -> (how the function is made, how its inputs are laid out)
PEERS = {
    "fastseg": (lambda: fused, same),
    "fastseg channels-last": (lambda: fused, channels_last),
    "eager": (lambda: eager, same),
    "eager channels-last": (lambda: eager, channels_last),
    "torch.compile": (lambda: compiled(eager), same),
    "torch.compile channels-last": (lambda: compiled(eager), channels_last),
    **with_autotune(eager, same),
}


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def x(request) -> Tensor:
    return torch.randn(request.param, device=DEVICE)


def parameters(x: Tensor) -> list[Tensor]:
    channels = x.shape[1]
    return [make(channels, device=DEVICE) for make in (torch.ones, torch.zeros, torch.zeros, torch.ones)]


@pytest.mark.large
@pytest.mark.parametrize("peer", PEERS)
def test_forward(beside_copy: BesideCopy, x, peer):
    make, layout = PEERS[peer]
    function, x, given = make(), layout(x), parameters(x)
    with torch.no_grad():
        beside_copy("batch_norm", "training, forward", peer, x, lambda: function(x, *given))


@pytest.mark.large
@pytest.mark.parametrize("peer", PEERS)
def test_forward_and_backward(beside_copy: BesideCopy, x, peer):
    make, layout = PEERS[peer]
    function, grad = make(), layout(torch.randn_like(x))
    x, (weight, bias, *running) = layout(x).requires_grad_(), parameters(x)
    leaves = (x, weight.requires_grad_(), bias.requires_grad_())
    beside_copy(
        "batch_norm",
        "training, forward + backward",
        peer,
        x,
        lambda: torch.autograd.grad(function(x, weight, bias, *running), leaves, grad),
    )
