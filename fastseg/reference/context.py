"""The context family in plain PyTorch: the definition, exact in float64, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.reference.depthwise import depthwise_conv, pointwise_conv

_CONV: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}


def padding_of(weight: Tensor, dilation: Sequence[int]) -> list[int]:
    """What stands before the image so that the output has its size; of an odd number the extra zero stands behind."""
    return [d * (k - 1) // 2 for k, d in zip(weight.shape[2:], dilation, strict=True)]


def aspp_conv(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], dilations: Sequence[Sequence[int]]
) -> Tensor:
    """Dilated convolutions of x side by side, each of x's size."""
    branches = []
    for weight, bias, dilation in zip(weights, biases, dilations, strict=True):
        reach = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        before = padding_of(weight, dilation)
        if any(r % 2 for r in reach):
            behind = [r - p for r, p in zip(reach, before, strict=True)]
            padded = F.pad(x, [p for pair in zip(before[::-1], behind[::-1], strict=True) for p in pair])
            branches.append(_CONV[x.ndim - 2](padded, weight, bias, dilation=tuple(dilation)))
        else:
            branches.append(_CONV[x.ndim - 2](x, weight, bias, padding=tuple(before), dilation=tuple(dilation)))
    return torch.cat(branches, 1)


def separable_aspp_conv(
    x: Tensor,
    depthwise_weights: Sequence[Tensor | None],
    pointwise_weights: Sequence[Tensor],
    depthwise_biases: Sequence[Tensor | None],
    pointwise_biases: Sequence[Tensor | None],
    dilations: Sequence[Sequence[int]],
) -> Tensor:
    """Dilated depthwise convolutions of x (x itself where one is None), each before a 1x1 convolution, side by side."""
    one = [1] * (x.ndim - 2)
    branches = []
    for depthwise, pointwise, depthwise_bias, pointwise_bias, dilation in zip(
        depthwise_weights, pointwise_weights, depthwise_biases, pointwise_biases, dilations, strict=True
    ):
        between = x
        if depthwise is not None:
            padding = padding_of(depthwise, dilation)
            between = depthwise_conv(x, depthwise, depthwise_bias, one, padding, dilation, x.shape[2:])
        branches.append(pointwise_conv(between, pointwise, pointwise_bias))
    return torch.cat(branches, 1)
