"""What users run today, beside what fastseg runs: the peers of every benchmark.

A peer is a function of the inputs; each prepares its inputs itself, outside of what is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg import reference
from fastseg.ops import (
    census_transform,
    depthwise_conv2d,
    depthwise_conv3d,
    depthwise_separable_conv3d,
    fast_global_smoother,
    instance_norm_act,
    matching_cost,
)

Function = Callable[..., Tensor]


def eager_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias), 0.01)


def inplace_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As nnU-Net writes it: LeakyReLU(inplace=True) on the output of the norm."""
    return F.leaky_relu_(F.instance_norm(x, weight=weight, bias=bias), 0.01)


def compiled(function: Function, mode: str | None = None) -> Function:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, mode=mode)


def with_autotune(function: Function, layout: Callable[[Tensor], Tensor]) -> dict[str, tuple[Callable, Callable]]:
    """A peer for GPUs: what torch.compile finds where it may try many kernels."""
    if not torch.cuda.is_available():
        return {}
    return {"torch.compile max-autotune": (lambda: compiled(function, "max-autotune-no-cudagraphs"), layout)}


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
    "torch.compile": (lambda: compiled(eager_norm), same),
    **with_autotune(eager_norm, same),
}


def eager_depthwise(x: Tensor, weight: Tensor, padding: int, dilation: int, stride: int = 1) -> Tensor:
    conv = F.conv2d if x.ndim == 4 else F.conv3d
    return conv(x, weight, stride=stride, padding=padding, dilation=dilation, groups=x.shape[1])


def fused_depthwise(x: Tensor, weight: Tensor, padding: int, dilation: int, stride: int = 1) -> Tensor:
    conv = depthwise_conv2d if x.ndim == 4 else depthwise_conv3d
    return conv(x, weight, stride=stride, padding=padding, dilation=dilation)


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


def numpy_census(image: np.ndarray, *, window: tuple[int, int]) -> np.ndarray:
    """A shifted view for each neighbour, compared as a whole; bits are gathered in bytes. Up to 64 neighbours."""
    rows, columns = window
    padded = np.pad(image, ((rows // 2,) * 2, (columns // 2,) * 2), mode="edge")
    height, width = image.shape
    places = [(y, x) for y in range(rows) for x in range(columns) if (y, x) != (rows // 2, columns // 2)]
    gathered = np.zeros((8, height, width), np.uint8)
    darker = np.empty((height, width), bool)
    for bit, (y, x) in reversed(list(enumerate(places))):
        np.less(padded[y : y + height, x : x + width], image, out=darker)
        byte = gathered[bit // 8]
        byte <<= 1
        byte |= darker.view(np.uint8)
    return np.ascontiguousarray(np.moveaxis(gathered, 0, -1)).view(np.int64)[..., 0]


def numpy_cost(
    left: np.ndarray,
    right: np.ndarray,
    *,
    max_disparity: int,
    cost: str = "weighted",
    census_weight: float = 0.0,
    dtype: type = np.float32,
) -> np.ndarray:
    """As a careful user writes it: whole rows of pixels at a time, temporaries reused; colours, defaults of fastseg."""
    height, width = left.shape[1:]
    greys = [np.tensordot(np.float32((0.299, 0.587, 0.114)), image, 1) for image in (left, right)]
    slopes = [np.gradient(grey, axis=1) for grey in greys]
    census = [numpy_census(grey, window=(7, 9)) for grey in greys] if census_weight or cost == "ad_census" else None
    volume = np.empty((max_disparity, height, width), dtype)
    for d in range(max_disparity):
        shifted = np.full_like(right, 3 / 255)
        shifted[..., d:] = right[..., : width - d]
        ad = np.abs(left - shifted).mean(0)
        ones: np.ndarray | None = None
        if census:
            ones = np.full((height, width), 62, np.float32)
            ones[:, d:] = np.bitwise_count(census[0][:, d:] ^ census[1][:, : width - d])
        if cost == "ad_census":
            volume[d] = 2 - np.exp(ones / np.float32(-35)) - np.exp(ad / np.float32(-15 / 255))
            continue
        slope = np.full((height, width), 3 / 255, np.float32)
        slope[:, d:] = slopes[1][:, : width - d]
        total = 0.11 * np.minimum(ad, 7 / 255) + 0.89 * np.minimum(np.abs(slopes[0] - slope), 2 / 255)
        volume[d] = total if ones is None else total + np.float32(census_weight / 62) * ones
    return volume


def eager_cost(left: np.ndarray, right: np.ndarray, **arguments: Any) -> np.ndarray:
    return reference.matching_cost(torch.from_numpy(left), torch.from_numpy(right), **as_torch(arguments)).numpy()


def eager_census(image: np.ndarray, *, window: tuple[int, int]) -> np.ndarray:
    return reference.census_transform(torch.from_numpy(image), window=window).numpy()


def as_torch(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "dtype": torch.float16 if arguments.get("dtype") == np.float16 else torch.float32}


MATCHING_COST_PEERS: dict[str, Callable[..., np.ndarray]] = {
    "fastseg": matching_cost,
    "eager": eager_cost,
    "NumPy": numpy_cost,
}
CENSUS_PEERS: dict[str, Callable[..., np.ndarray]] = {
    "fastseg": census_transform,
    "eager": eager_census,
    "NumPy": numpy_census,
}
