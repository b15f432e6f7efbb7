"""The depthwise and pointwise layers: torch's numbers, arguments and keys."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from fastseg.nn import (
    DepthwiseConv2d,
    DepthwiseConv3d,
    DepthwiseConvTranspose2d,
    DepthwiseConvTranspose3d,
    DepthwiseSeparableConv2d,
    DepthwiseSeparableConv3d,
    PointwiseConv2d,
    PointwiseConv3d,
)

PAIRS = [
    (DepthwiseConv2d(6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6)),
    (DepthwiseConv2d(6, (3, 5), 2, (1, 2), bias=False), nn.Conv2d(6, 6, (3, 5), 2, (1, 2), groups=6, bias=False)),
    (
        DepthwiseConv2d(6, 3, padding="same", dilation=2, channel_multiplier=2),
        nn.Conv2d(6, 12, 3, padding="same", dilation=2, groups=6),
    ),
    (
        DepthwiseConv2d(6, 3, padding=2, padding_mode="reflect"),
        nn.Conv2d(6, 6, 3, padding=2, padding_mode="reflect", groups=6),
    ),
    (
        DepthwiseConv3d(6, 4, padding="same", padding_mode="circular"),
        nn.Conv3d(6, 6, 4, padding="same", padding_mode="circular", groups=6),
    ),
    (DepthwiseConv3d(6, 5, padding=2), nn.Conv3d(6, 6, 5, padding=2, groups=6)),
    (DepthwiseConvTranspose2d(6, 3, 2, 1), nn.ConvTranspose2d(6, 6, 3, 2, 1, groups=6)),
    (
        DepthwiseConvTranspose3d(6, 3, 2, 1, output_padding=1, bias=False),
        nn.ConvTranspose3d(6, 6, 3, 2, 1, output_padding=1, groups=6, bias=False),
    ),
    (PointwiseConv2d(6, 9), nn.Conv2d(6, 9, 1)),
    (PointwiseConv2d(6, 9, groups=3), nn.Conv2d(6, 9, 1, groups=3)),
    (PointwiseConv3d(6, 9, bias=False), nn.Conv3d(6, 9, 1, bias=False)),
]


@pytest.mark.parametrize("ours,theirs", PAIRS, ids=lambda layer: type(layer).__name__)
def test_is_torchs_layer(ours, theirs):
    assert isinstance(ours, type(theirs)) and repr(ours).partition("(")[2] == repr(theirs).partition("(")[2]
    theirs.load_state_dict(ours.state_dict())
    image = (8, 9) if isinstance(ours, (nn.Conv2d, nn.ConvTranspose2d)) else (7, 8, 9)
    for x in (torch.randn(2, 6, *image), torch.randn(6, *image)):
        torch.testing.assert_close(ours(x), theirs(x))
    with pytest.raises(ValueError, match=rf"{type(ours).__name__}: input has 5 channels .*, expected 6"):
        ours(torch.randn(2, 5, *image))
    with pytest.raises(ValueError, match=rf"{type(ours).__name__}: input has shape \(6, 9\), expected rank"):
        ours(torch.randn(6, 9))


def test_output_size_of_a_transposed_layer():
    layer, theirs = DepthwiseConvTranspose2d(3, 3, 2, 1), nn.ConvTranspose2d(3, 3, 3, 2, 1, groups=3)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(1, 3, 5, 5)
    for size in ([9, 10], [10, 9]):
        y = layer(x, output_size=size)
        assert list(y.shape[2:]) == size
        torch.testing.assert_close(y, theirs(x, output_size=size))


@pytest.mark.parametrize(
    "cls,conv,rank", ((DepthwiseSeparableConv2d, nn.Conv2d, 2), (DepthwiseSeparableConv3d, nn.Conv3d, 3))
)
def test_separable_has_the_keys_of_a_sequential(cls, conv, rank):
    ours = cls(4, 7, 3, stride=2, padding=1)
    theirs = nn.Sequential(conv(4, 4, 3, 2, 1, groups=4, bias=False), conv(4, 7, 1))
    assert list(ours.state_dict()) == ["0.weight", "1.weight", "1.bias"]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, *[9] * rank)
    torch.testing.assert_close(ours(x), theirs(x))
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(copied(x), ours(x))


def test_gradients_reach_the_parameters():
    layer = DepthwiseSeparableConv2d(4, 6, 3, padding="same")
    layer(torch.randn(2, 4, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_separable_runs_the_hooks_of_its_layers():
    layer, seen = DepthwiseSeparableConv2d(4, 6, 3, padding=1).eval(), []
    x = torch.randn(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = layer(x)
        layer[0].register_forward_hook(lambda module, args, y: seen.append(y.shape))
        torch.testing.assert_close(layer(x), expected)
        assert layer(x[0]).shape == (6, 8, 8)
    assert seen == [(1, 4, 8, 8), (4, 8, 8)]
