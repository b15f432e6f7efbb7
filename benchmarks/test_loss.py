"""Dice plus cross-entropy beside its peers, over the copy of the logits as the floor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import BesideCopy
from benchmarks.loss_peers import LOSS_PEERS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((2, 4, 128, 128, 128), (1, 3, 64, 64, 64), (8, 2, 256, 256), (2, 19, 512, 512))


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def inputs(request) -> tuple[Tensor, Tensor]:
    """Logits, and labels as nnU-Net's and MONAI's losses take them: (N, 1, *spatial)."""
    shape = request.param
    target = torch.randint(shape[1], (shape[0], 1, *shape[2:]), device=DEVICE)
    return torch.randn(shape, device=DEVICE), target


@pytest.mark.large
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("peer", LOSS_PEERS)
def test_dice_cross_entropy(beside_copy: BesideCopy, inputs, peer, dtype):
    make, layout = LOSS_PEERS[peer]
    function, target = make(), inputs[1]
    logits = layout(inputs[0].to(dtype))
    kind = "" if dtype == torch.float32 else ", bfloat16"
    with torch.no_grad():
        beside_copy("loss", f"Dice + cross-entropy{kind}, forward", peer, logits, lambda: function(logits, target))


@pytest.mark.large
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("peer", LOSS_PEERS)
def test_with_gradient(beside_copy: BesideCopy, inputs, peer, dtype):
    make, layout = LOSS_PEERS[peer]
    function, target = make(), inputs[1]
    logits = layout(inputs[0].to(dtype)).requires_grad_()
    kind = "" if dtype == torch.float32 else ", bfloat16"
    beside_copy(
        "loss",
        f"Dice + cross-entropy{kind}, forward + backward",
        peer,
        logits,
        lambda: torch.autograd.grad(function(logits, target), logits),
    )
