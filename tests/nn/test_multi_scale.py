"""Multi-scale convolutions: the same numbers as torch's convolutions, one by one and concatenated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastseg
from fastseg.models import plain
from fastseg.nn import MultiScaleConv2d, MultiScaleConv3d


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("layer_type", (MultiScaleConv2d, MultiScaleConv3d))
def test_is_the_concatenation_of_its_branches(layer_type, channels_last):
    torch.manual_seed(0)
    layer = layer_type(5, 8, (3, 5, 7)).double()
    three = layer_type is MultiScaleConv3d
    convolution = nn.Conv3d if three else nn.Conv2d
    branches = []
    for size, outputs, branch in zip((3, 5, 7), (3, 3, 2), layer, strict=True):
        depthwise = convolution(5, 5, size, padding=size // 2, groups=5, bias=False).double()
        pointwise = convolution(5, outputs, 1).double()
        branches.append(nn.Sequential(depthwise, pointwise))
        branches[-1].load_state_dict(branch.state_dict())
    x = torch.randn(2, 5, *((4, 6, 9) if three else (6, 9)), dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d if three else torch.channels_last)
    x.requires_grad_()
    actual, expected = layer(x), torch.cat([branch(x) for branch in branches], 1)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(expected)
    parameters = [p for branch in branches for p in branch.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(actual, [x, *layer.parameters()], grad),
        torch.autograd.grad(expected, [x, *parameters], grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ("MultiScaleConv2d", "MultiScaleConv3d"))
def test_plain_layer_has_the_same_keys_and_numbers(name):
    torch.manual_seed(0)
    layer, stock = getattr(fastseg.nn, name)(4, 7).double(), getattr(plain, name)(4, 7).double()
    stock.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, *[8] * int(name[-2]), dtype=torch.float64)
    torch.testing.assert_close(layer(x), stock(x), rtol=1e-12, atol=1e-12)


def test_refuses_even_kernels_and_too_few_outputs():
    with pytest.raises(ValueError, match=r"kernel_sizes is \(3, 4\), expected odd"):
        MultiScaleConv2d(4, 8, (3, 4))
    with pytest.raises(ValueError, match=r"kernel_sizes is \(\), expected odd numbers, one at least"):
        MultiScaleConv2d(4, 8, ())
    with pytest.raises(ValueError, match="out_channels is 2, expected 3 or more"):
        MultiScaleConv2d(4, 2)
