"""The levels that cross-scale aggregation couples, and their filtered costs for a range of disparities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastseg import ops
from fastseg.stereo.options import WLSLevels

# Disparities at a time where memory is plenty: enough to keep processors busy.
_CHUNK = 64


@dataclass(frozen=True)
class Scales:
    """The images of each level, finest first; either a pyramid of halves, or smoothed images of one size.

    Attributes:
        left, right: a level each, (B, 1 or 3, H, W) in [0, 1].
        pyramid: whether each level has half the size of the one before.
    """

    left: Sequence[Tensor]
    right: Sequence[Tensor]
    pyramid: bool

    def guide(self, view: str) -> Sequence[Tensor]:
        return self.left if view == "left" else self.right


def luminance(image: Tensor) -> Tensor:
    """(..., 1 or 3, H, W) to (..., H, W)."""
    if image.shape[-3] == 1:
        return image.squeeze(-3)
    red, green, blue = image.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue  # as in matching_cost


def image_pyramid(left: Tensor, right: Tensor, levels: int) -> Scales:
    """Each level the means of 2x2 pixels of the one before; odd sizes rounded up (Zhang et al. 2014)."""
    return Scales(_pyramid(left, levels), _pyramid(right, levels), pyramid=True)


def wls_scales(left: Tensor, right: Tensor, levels: int, options: WLSLevels) -> Scales:
    """The images and their WLS base layers, each smoothed out of the one before."""
    return Scales(_smoothed(left, levels, options), _smoothed(right, levels, options), pyramid=False)


def _pyramid(image: Tensor, levels: int) -> list[Tensor]:
    result = [image]
    for _ in range(levels - 1):
        height, width = result[-1].shape[-2:]
        # An odd edge is doubled, so that its mean is its own.
        even = torch.nn.functional.pad(result[-1], (0, width % 2, 0, height % 2), mode="replicate")
        result.append(torch.nn.functional.avg_pool2d(even, 2))
    return result


def _smoothed(image: Tensor, levels: int, options: WLSLevels) -> list[Tensor]:
    if levels == 1:
        return [image]
    bases = ops.wls_decompose(
        image,
        levels - 1,
        guide=luminance(image).clamp(min=0).unsqueeze(-3),
        lambda_=options.lambda_,
        factor=options.factor,
        iterated=options.iterated,
        alpha=options.alpha,
    ).bases
    return [base.clamp(0, 1) for base in bases]


@dataclass(frozen=True)
class CostFilter:
    """Filtered and combined costs of a range of disparities: ``costs(scales, view, first, last)``.

    Attributes:
        cost: options of :func:`fastseg.ops.matching_cost`.
        radius, eps: of the guided filter, in pixels of each level.
        lambda_: of :func:`fastseg.ops.cross_scale_aggregate`.
        matching_cost, filter, combine: as these three functions.
    """

    cost: dict[str, Any]
    radius: int
    eps: float
    lambda_: float
    matching_cost: Callable[..., Any] = ops.matching_cost
    filter: Callable[..., Any] = ops.guided_filter
    combine: Callable[..., Any] = ops.cross_scale_aggregate

    def __call__(self, scales: Scales, view: str, first: int, last: int) -> Tensor:
        """(B, last - first, H, W): costs of the disparities from ``first`` to below ``last``."""
        shape = (*scales.left[0].shape[:1], last - first, *scales.left[0].shape[-2:])
        guides = scales.guide(view)
        if not scales.pyramid:
            volumes = [self._costs(scales, level, view, first, last) for level in range(len(guides))]
            combined = volumes[0] if len(volumes) == 1 else self.combine(volumes, lambda_=self.lambda_)
            return self._filtered(guides[0], combined)  # linear, so once for all levels
        volumes = []
        for level, (size, start) in enumerate(ops.cross_scale_shapes(shape, len(guides), first)):
            costs = self._costs(scales, level, view, start, start + size[1])
            volumes.append(self._filtered(guides[level], costs))
        if len(volumes) == 1:
            return volumes[0]
        return self.combine(volumes, lambda_=self.lambda_, min_disparity=first)

    @property
    def plain(self) -> bool:
        """Whether :meth:`least` gives what a call gives."""
        return (self.matching_cost, self.filter) == (ops.matching_cost, ops.guided_filter)

    def least(self, scales: Scales, view: str, first: int, last: int) -> ops.GuidedArgmin:
        """Of a single level, which disparity costs least at each pixel, counted from ``first``, and what it costs."""
        costs = self._costs(scales, 0, view, first, last)
        return ops.guided_filter_argmin(scales.guide(view)[0], costs, radius=self.radius, eps=self.eps)

    @staticmethod
    def bytes_per_disparity(shape: Sequence[int], levels: int, *, pyramid: bool) -> int:
        """Of memory that a call needs at most, for each disparity and for one more; ``shape`` is the image's."""
        batch, _, height, width = shape
        # Costs and filtered costs of the finest level and their combination; coarser levels besides.
        volumes = 3 if levels == 1 else (3.5 if pyramid else levels + 2)
        return int(4 * batch * height * width * volumes)

    def _costs(self, scales: Scales, level: int, view: str, first: int, last: int) -> Tensor:
        left, right = scales.left[level], scales.right[level]
        # Halving rounds the largest disparity up, maybe beyond the width: all is outside there, as in the slice before.
        width = left.shape[-1]
        low = min(max(first, 1 - width), width - 1)
        high = max(min(last, width), low + 1)
        costs = self.matching_cost(left, right, min_disparity=low, max_disparity=high, view=view, **self.cost)
        if (low, high) == (first, last):
            return costs
        return costs[:, torch.arange(first - low, last - low, device=costs.device).clamp(0, high - 1 - low)]

    def _filtered(self, guide: Tensor, costs: Tensor) -> Tensor:
        return self.filter(guide, costs, radius=self.radius, eps=self.eps)


def disparity_chunks(first: int, last: int, bytes_each: int, limit: int) -> list[tuple[int, int]]:
    """Ranges of disparities that together are [first, last), each within ``limit`` bytes.

    Raises:
        ValueError: not even one disparity fits.
    """
    fitting = limit // bytes_each - 1
    if fitting < 1:
        raise ValueError(
            f"StereoMatcher: memory_limit is {limit} bytes, expected at least {2 * bytes_each} for images of this size"
        )
    length = min(_CHUNK, fitting)
    return [(start, min(start + length, last)) for start in range(first, last, length)]
