"""AttentionGate: arguments, parameters and shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastseg.nn import AttentionGate


@pytest.mark.parametrize("dims", (2, 3))
@pytest.mark.parametrize("bias", (True, False))
def test_is_the_gate_of_its_convolutions(dims, bias):
    layer = AttentionGate(dims, 6, 5, 4, bias=bias)
    x, gating = torch.randn(2, 6, *(8,) * dims), torch.randn(2, 5, *(4,) * dims)
    up = F.interpolate(layer.W_g(gating), x.shape[2:], mode=("bilinear", "trilinear")[dims - 2])
    torch.testing.assert_close(layer(x, gating), x * torch.sigmoid(layer.psi(F.relu(layer.W_x(x) + up))))


def test_parameters_and_default_features():
    layer = AttentionGate(2, 8, 3)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {
        "W_x.weight": (4, 8, 1, 1),
        "W_g.weight": (4, 3, 1, 1),
        "W_g.bias": (4,),
        "psi.weight": (1, 4, 1, 1),
        "psi.bias": (1,),
    }
    layer(torch.randn(1, 8, 5, 6), torch.randn(1, 3, 5, 6)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_wrong_arguments():
    with pytest.raises(ValueError, match="AttentionGate: spatial_dims is 1, expected 2 or 3"):
        AttentionGate(1, 4, 4)
    with pytest.raises(ValueError, match=r"x_weight has shape \(4, 8, 1, 1\), expected \(F, 8, 1, 1, 1\)"):
        AttentionGate(2, 8, 3)(torch.randn(1, 8, 5, 6, 7), torch.randn(1, 3, 5, 6, 7))
