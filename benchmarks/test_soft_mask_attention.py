"""soft_mask_attention beside its peers, over the copy of the trunk as the floor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conftest import BesideCopy
from benchmarks.peers import channels_last, compiled, same, with_autotune
from fastseg.ops import soft_mask_attention, soft_mask_attention_conv

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((1, 32, 128, 128, 128), (1, 64, 64, 64, 64), (8, 64, 256, 256))


def eager(trunk: Tensor, mask: Tensor) -> Tensor:
    return (1 + torch.sigmoid(mask)) * trunk


def eager_conv(trunk: Tensor, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return eager(trunk, (F.conv2d if trunk.ndim == 4 else F.conv3d)(features, weight, bias))


#: name -> (how the function is made, how its inputs are laid out)
PEERS = {
    "fastseg": (lambda: soft_mask_attention, same),
    "fastseg channels-last": (lambda: soft_mask_attention, channels_last),
    "eager": (lambda: eager, same),
    "eager channels-last": (lambda: eager, channels_last),
    "torch.compile": (lambda: compiled(eager), same),
    "torch.compile channels-last": (lambda: compiled(eager), channels_last),
    **with_autotune(eager, same),
}
CONV_PEERS = {
    "fastseg": (soft_mask_attention_conv, same),
    "fastseg channels-last": (soft_mask_attention_conv, channels_last),
    "eager": (eager_conv, same),
    "eager channels-last": (eager_conv, channels_last),
}


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def trunk(request) -> Tensor:
    return torch.randn(request.param, device=DEVICE)


@pytest.mark.large
@pytest.mark.parametrize("one", (False, True), ids=("mask of all channels", "mask of one channel"))
@pytest.mark.parametrize("peer", PEERS)
def test_forward(beside_copy: BesideCopy, trunk, one, peer):
    make, layout = PEERS[peer]
    function, mask = make(), torch.randn_like(trunk[:, :1] if one else trunk)
    inputs = layout(trunk), mask if one else layout(mask)
    case = "forward, mask of one channel" if one else "forward"
    with torch.no_grad():
        beside_copy("soft_mask_attention", case, peer, trunk, lambda: function(*inputs))


@pytest.mark.large
@pytest.mark.parametrize("peer", PEERS)
def test_forward_and_backward(beside_copy: BesideCopy, trunk, peer):
    make, layout = PEERS[peer]
    function, grad = make(), layout(torch.randn_like(trunk))
    inputs = [layout(t).requires_grad_() for t in (trunk, torch.randn_like(trunk))]
    beside_copy(
        "soft_mask_attention",
        "forward + backward",
        peer,
        trunk,
        lambda: torch.autograd.grad(function(*inputs), inputs, grad),
    )


@pytest.mark.parametrize("peer", CONV_PEERS)
def test_with_the_convolution_of_the_mask(beside_copy: BesideCopy, trunk, peer):
    function, layout = CONV_PEERS[peer]
    channels = trunk.shape[1]
    weight = torch.randn(channels, channels, *[1] * (trunk.ndim - 2), device=DEVICE) / channels
    inputs = layout(trunk), layout(torch.randn_like(trunk)), weight, torch.zeros(channels, device=DEVICE)
    with torch.no_grad():
        beside_copy("soft_mask_attention", "1x1 convolution and forward", peer, trunk, lambda: function(*inputs))
