"""1x1 convolutions, and separable ones of images: what users run today, beside what fastseg runs."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import channels_last, eager_depthwise, same
from fastseg.ops import depthwise_separable_conv2d, pointwise_conv


def eager_pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """As ConvNeXt writes it: of pixels with adjacent channels a matrix product, which MKL computes."""
    return F.linear(x.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)


def eager_separable(x: Tensor, weight: Tensor, pointwise: Tensor) -> Tensor:
    return F.conv2d(eager_depthwise(x, weight, weight.shape[-1] // 2, 1), pointwise)


def fused_separable(x: Tensor, weight: Tensor, pointwise: Tensor) -> Tensor:
    return depthwise_separable_conv2d(x, weight, pointwise, padding=weight.shape[-1] // 2)


#: name -> (function, how its inputs are laid out)
POINTWISE_PEERS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "fastseg": (pointwise_conv, same),
    "fastseg channels-last": (pointwise_conv, channels_last),
    "eager": (eager_pointwise, same),
    "eager channels-last": (eager_pointwise, channels_last),
    "linear": (linear, channels_last),
}
SEPARABLE_IMAGE_PEERS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "fastseg": (fused_separable, same),
    "fastseg channels-last": (fused_separable, channels_last),
    "eager": (eager_separable, same),
    "eager channels-last": (eager_separable, channels_last),
}
