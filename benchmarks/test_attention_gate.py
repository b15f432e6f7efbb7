"""attention_gate beside its peers, over the copy of x as the floor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conftest import BesideCopy
from benchmarks.peers import channels_last, compiled, same, with_autotune
from fastseg.ops import attention_gate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: channels of x and of the gating signal, features; size of x, size of the gating signal
CASES = {
    "same grid": ((32, 32, 16), (64, 64, 64), (64, 64, 64)),
    "coarse grid": ((32, 64, 16), (64, 64, 64), (32, 32, 32)),
    "coarse grid, 2-D": ((64, 128, 32), (256, 256), (128, 128)),
}


def eager(x: Tensor, gating: Tensor, x_weight, gating_weight, bias, psi_weight, psi_bias) -> Tensor:
    conv, mode = (F.conv2d, "bilinear") if x.ndim == 4 else (F.conv3d, "trilinear")
    features = conv(gating, gating_weight)
    if gating.shape[2:] != x.shape[2:]:
        features = F.interpolate(features, x.shape[2:], mode=mode)
    return x * torch.sigmoid(conv(F.relu(conv(x, x_weight, bias) + features), psi_weight, psi_bias))


#: name -> (how the function is made, how x and gating are laid out)
PEERS = {
    "fastseg": (lambda: attention_gate, same),
    "fastseg channels-last": (lambda: attention_gate, channels_last),
    "eager": (lambda: eager, same),
    "eager channels-last": (lambda: eager, channels_last),
    "torch.compile": (lambda: compiled(eager), same),
    "torch.compile channels-last": (lambda: compiled(eager), channels_last),
    **with_autotune(eager, same),
}


def inputs_of(case: str, layout) -> list[Tensor]:
    (channels, gating, features), image, grid = CASES[case]
    ones = [1] * len(image)
    shapes = ((features, channels, *ones), (features, gating, *ones), (features,), (1, features, *ones), (1,))
    images = [layout(torch.randn(shape)) for shape in ((1, channels, *image), (1, gating, *grid))]
    return [t.to(DEVICE) for t in (*images, *(torch.randn(shape) / 6 for shape in shapes))]


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", CASES)
def test_forward(beside_copy: BesideCopy, case, peer):
    make, layout = PEERS[peer]
    function, inputs = make(), inputs_of(case, layout)
    with torch.no_grad():
        beside_copy("attention_gate", f"forward, {case}", peer, inputs[0], lambda: function(*inputs))


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward(beside_copy: BesideCopy, case, peer):
    make, layout = PEERS[peer]
    function, inputs = make(), inputs_of(case, layout)
    leaves, grad = [t.requires_grad_() for t in inputs], torch.randn_like(inputs[0])
    beside_copy(
        "attention_gate",
        f"forward + backward, {case}",
        peer,
        grad,
        lambda: torch.autograd.grad(function(*leaves), leaves, grad),
    )
