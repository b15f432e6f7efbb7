"""InstanceNormAct1d/2d/3d and GroupNormAct beside torch's own layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastseg.nn import GroupNormAct, InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d

LAYERS = [
    (InstanceNormAct1d, nn.InstanceNorm1d, (2, 3, 9)),
    (InstanceNormAct2d, nn.InstanceNorm2d, (2, 3, 5, 6)),
    (InstanceNormAct3d, nn.InstanceNorm3d, (2, 3, 4, 5, 6)),
]


def stock_and_fused(fused, stock, **arguments):
    """The two layers with the same random parameters, loaded strictly both ways."""
    ours, theirs = fused(3, affine=True, **arguments), stock(3, affine=True)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize(("fused", "stock", "shape"), LAYERS)
def test_like_the_layers_it_stands_for(fused, stock, shape):
    ours, theirs = stock_and_fused(fused, stock, activation="leaky_relu", negative_slope=0.2)
    assert isinstance(ours, stock) and list(ours.state_dict()) == list(theirs.state_dict())
    x, residual = torch.randn(shape), torch.randn(shape)
    torch.testing.assert_close(ours(x), F.leaky_relu(theirs(x), 0.2))
    torch.testing.assert_close(ours(x, residual), F.leaky_relu(theirs(x) + residual, 0.2))
    torch.testing.assert_close(ours(x[0], residual[0]), F.leaky_relu(theirs(x[0]) + residual[0], 0.2))


@pytest.mark.parametrize(("fused", "stock", "shape"), LAYERS)
def test_errors(fused, stock, shape):
    with pytest.raises(ValueError, match="track_running_stats is True, expected False"):
        fused(3, track_running_stats=True)
    with pytest.raises(ValueError, match="activation is 'gelu'"):
        fused(3, activation="gelu")
    with pytest.raises(ValueError, match="negative_slope is -1"):
        fused(3, negative_slope=-1)
    with pytest.raises(ValueError, match=r"input has 3 channels .* expected num_features=4"):
        fused(4, affine=True)(torch.randn(shape))
    with pytest.warns(UserWarning, match="input has 3 channels"):  # torch's layer warns too
        fused(4)(torch.randn(shape))
    with pytest.raises(ValueError, match="expected"):
        fused(3)(torch.randn(3))


def test_copies_and_repr():
    layer = InstanceNormAct3d(3, affine=True, activation="relu")
    x = torch.randn(1, 3, 4, 4, 4)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    assert "activation=relu" in repr(layer) and "negative_slope=0.01" in repr(InstanceNormAct3d(3))


def test_compile():
    torch._dynamo.reset()
    layer = InstanceNormAct2d(3, affine=True)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x))


def test_group_norm_with_one_channel_a_group():
    ours, theirs = GroupNormAct(4, 4, activation="relu"), nn.GroupNorm(4, 4)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    for shape in ((2, 4, 5, 6), (2, 4, 7), (2, 4, 1, 1), (2, 4)):  # the last two have one element a channel
        x = torch.randn(shape)
        torch.testing.assert_close(ours(x), theirs(x).relu())
        torch.testing.assert_close(ours(x, x), (theirs(x) + x).relu())
    with pytest.raises(ValueError, match="num_groups is 2, expected num_channels=4"):
        GroupNormAct(2, 4)
    with pytest.raises(ValueError, match="input has 3 channels"):
        ours(torch.randn(2, 3, 5))
