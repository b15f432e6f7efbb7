"""What users run today, beside what fastseg runs: the peers of every benchmark.

A peer is a function of the inputs; each prepares its inputs itself, outside of what is timed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.ops import (
    depthwise_conv2d,
    depthwise_conv3d,
    depthwise_separable_conv3d,
    fast_global_smoother,
    instance_norm_act,
)

Function = Callable[..., Tensor]


def eager_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias), 0.01)


def inplace_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As nnU-Net writes it: LeakyReLU(inplace=True) on the output of the norm."""
    return F.leaky_relu_(F.instance_norm(x, weight=weight, bias=bias), 0.01)


def compiled_norm() -> Function:
    torch._dynamo.reset()
    return torch.compile(eager_norm, fullgraph=True)


def channels_last(t: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.to(memory_format=formats[t.ndim])


def same(t: Tensor) -> Tensor:
    return t


#: name -> (how the function is made, how its inputs are laid out)
NORM_PEERS: dict[str, tuple[Callable[[], Function], Callable[[Tensor], Tensor]]] = {
    "fastseg": (lambda: instance_norm_act, same),
    "fastseg channels-last": (lambda: instance_norm_act, channels_last),
    "eager": (lambda: eager_norm, same),
    "eager in-place act": (lambda: inplace_norm, same),
    "eager channels-last": (lambda: eager_norm, channels_last),
    "torch.compile": (compiled_norm, same),
}


def eager_depthwise(x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    conv = F.conv2d if x.ndim == 4 else F.conv3d
    return conv(x, weight, padding=padding, dilation=dilation, groups=x.shape[1])


def fused_depthwise(x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    conv = depthwise_conv2d if x.ndim == 4 else depthwise_conv3d
    return conv(x, weight, padding=padding, dilation=dilation)


def eager_separable(x: Tensor, weight: Tensor, pointwise: Tensor) -> Tensor:
    return F.conv3d(eager_depthwise(x, weight, 1, 1), pointwise)


def fused_separable(x: Tensor, weight: Tensor, pointwise: Tensor) -> Tensor:
    return depthwise_separable_conv3d(x, weight, pointwise, padding=1)


#: torch.compile is no peer of these: it calls the same routines as eager does.
DEPTHWISE_PEERS: dict[str, tuple[Function, Callable[[Tensor], Tensor]]] = {
    "fastseg": (fused_depthwise, same),
    "fastseg channels-last": (fused_depthwise, channels_last),
    "eager": (eager_depthwise, same),
    "eager channels-last": (eager_depthwise, channels_last),
}
SEPARABLE_PEERS: dict[str, tuple[Function, Callable[[Tensor], Tensor]]] = {
    "fastseg": (fused_separable, same),
    "fastseg channels-last": (fused_separable, channels_last),
    "eager": (eager_separable, same),
    "eager channels-last": (eager_separable, channels_last),
}


def fused_smoother(src: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Channels first, as all functions of fastseg take images."""
    return fast_global_smoother(src, guide, lambda_=100.0, sigma=10.0)


def opencv_smoother(src: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """Channels last, as OpenCV takes images."""
    import cv2

    return cv2.ximgproc.fastGlobalSmootherFilter(guide, src, 100.0, 10.0, lambda_attenuation=0.25, num_iter=3)


def channels_first_image(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(image, -1, 0)) if image.ndim == 3 else image


#: name -> (function, how its inputs, made channels last, are laid out)
SMOOTHER_PEERS: dict[str, tuple[Callable[..., np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "fastseg": (fused_smoother, channels_first_image),
    "OpenCV": (opencv_smoother, lambda image: image),
}
