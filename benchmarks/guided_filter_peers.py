"""The guided filter as it is run today: OpenCV, kornia, and box filters in PyTorch.

A peer is made from a guide, (3, H, W) or (H, W), an image or volume and the settings, all of which it may prepare; what
it returns is timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.ops import guided_filter, guided_filter_argmin


@dataclass(frozen=True)
class Settings:
    radius: int = 9
    eps: float = 1e-4
    subsample: int = 1


Call = Callable[[], object]
Peer = Callable[[np.ndarray, np.ndarray, Settings], Call]


def fastseg(guide: np.ndarray, src: np.ndarray, settings: Settings) -> Call:
    arguments = {"radius": settings.radius, "eps": settings.eps, "subsample": settings.subsample}
    return lambda: guided_filter(guide, src, **arguments)


def opencv(guide: np.ndarray, src: np.ndarray, settings: Settings) -> Call:
    """A volume's filter is made once for all slices, and that is not timed; an image's is."""
    cv2 = pytest.importorskip("cv2")
    cv2.setNumThreads(torch.get_num_threads())
    image = np.ascontiguousarray(np.moveaxis(guide, 0, -1)) if guide.ndim == 3 else guide
    numbers = settings.radius, settings.eps
    if src.ndim == 2:
        return lambda: cv2.ximgproc.guidedFilter(image, src, *numbers)
    made = cv2.ximgproc.createGuidedFilter(image, *numbers, scale=1 / settings.subsample)
    dst = np.empty_like(src)

    def slices() -> np.ndarray:
        for p, q in zip(src, dst, strict=True):
            made.filter(p, q)
        return dst

    return slices


def kornia(guide: np.ndarray, src: np.ndarray, settings: Settings) -> Call:
    filters = pytest.importorskip("kornia").filters
    images, p = batch(guide), batch(src)
    size = 2 * settings.radius + 1
    return lambda: filters.guided_blur(images, p, size, settings.eps, subsample=settings.subsample)


def eager(guide: np.ndarray, src: np.ndarray, settings: Settings) -> Call:
    return functools.partial(composed, batch(guide), batch(src), settings.radius, settings.eps, pooled)


def compiled(guide: np.ndarray, src: np.ndarray, settings: Settings) -> Call:
    """With prefix sums: poolings are slower here, and take torch.compile more than a minute for a colour guide."""
    torch._dynamo.reset()
    function = torch.compile(composed, fullgraph=True, dynamic=False)
    return functools.partial(function, batch(guide), batch(src), settings.radius, settings.eps, by_prefix_sums)


def batch(images: np.ndarray) -> Tensor:
    """(1, channels, H, W)."""
    return torch.from_numpy(images).reshape(1, -1, *images.shape[-2:])


def pooled(x: Tensor, radius: int) -> Tensor:
    """Means over windows, along rows and then along columns."""
    size = 2 * radius + 1
    rows = F.avg_pool2d(x, (1, size), 1, (0, radius), count_include_pad=False)
    return F.avg_pool2d(rows, (size, 1), 1, (radius, 0), count_include_pad=False)


def by_prefix_sums(x: Tensor, radius: int) -> Tensor:
    for dim in (-1, -2):
        n = x.shape[dim]
        sums = F.pad(x, (radius + 1, radius) if dim == -1 else (0, 0, radius + 1, radius)).cumsum(dim)
        pixel = torch.arange(n)
        count = (pixel + radius).clamp(max=n - 1) - (pixel - radius).clamp(min=0) + 1
        windows = sums.narrow(dim, 2 * radius + 1, n) - sums.narrow(dim, 0, n)
        x = windows / (count if dim == -1 else count[:, None])
    return x


def composed(
    guide: Tensor, src: Tensor, radius: int, eps: float, window_mean: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """The guide centred, 3x3 systems solved by cofactors."""
    p, guide = src.float(), guide - guide.mean((-2, -1), keepdim=True)

    def mean(x: Tensor) -> Tensor:
        return window_mean(x, radius)

    colours = guide.split(1, 1)
    means = [mean(colour) for colour in colours]
    mean_p = mean(p)
    covariance = [mean(colour * p) - centre * mean_p for colour, centre in zip(colours, means, strict=True)]

    def moment(i: int, j: int) -> Tensor:
        return mean(colours[i] * colours[j]) - means[i] * means[j] + (eps if i == j else 0.0)

    if len(colours) == 1:
        slopes = [covariance[0] / moment(0, 0)]
    else:
        rr, rg, rb, gg, gb, bb = (moment(i, j) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
        c00, c01, c02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
        c11, c12, c22 = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
        share = 1 / (rr * c00 + rg * c01 + rb * c02)
        lines = (c00, c01, c02), (c01, c11, c12), (c02, c12, c22)
        slopes = [sum(c * v for c, v in zip(line, covariance, strict=True)) * share for line in lines]
    offset = mean_p - sum(a * centre for a, centre in zip(slopes, means, strict=True))
    result = sum(mean(a) * colour for a, colour in zip(slopes, colours, strict=True)) + mean(offset)
    return result.to(src.dtype)


def fastseg_winner(guide: np.ndarray, src: np.ndarray, settings: Settings) -> Call:
    return lambda: guided_filter_argmin(guide, src, radius=settings.radius, eps=settings.eps)


def then_torch(guide: np.ndarray, src: np.ndarray, settings: Settings) -> Call:
    filtered = fastseg(torch.from_numpy(guide), torch.from_numpy(src), settings)
    return lambda: filtered().min(0)


def then_numpy(guide: np.ndarray, src: np.ndarray, settings: Settings) -> Call:
    filtered = opencv(guide, src, settings)
    return lambda: filtered().argmin(0)


#: name -> (peer, calls before it is timed, calls that are)
GUIDED_FILTER_PEERS: dict[str, tuple[Peer, int, int]] = {
    "fastseg": (fastseg, 3, 21),
    "OpenCV": (opencv, 2, 7),
    "kornia": (kornia, 1, 3),
    "eager": (eager, 1, 3),
    "torch.compile": (compiled, 1, 3),
}

#: The winner of a filtered volume.
WINNER_PEERS: dict[str, tuple[Peer, int, int]] = {
    "fastseg": (fastseg_winner, 3, 20),
    "fastseg guided_filter, torch min": (then_torch, 3, 20),
    "OpenCV, NumPy argmin": (then_numpy, 1, 5),
}
