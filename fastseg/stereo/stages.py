"""The functions that a matcher calls one after the other; any of them can be another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastseg import ops
from fastseg.stereo import refinement
from fastseg.stereo.scales import Scales


@dataclass(frozen=True)
class Stages:
    """Tensors in, tensors out, all on the matcher's device; disparities are (B, H, W), images (B, 1 or 3, H, W).

    Attributes:
        scales: (left, right) -> :class:`~fastseg.stereo.Scales`; None: what the matcher's ``levels`` and ``wls`` say.
        matching_cost: as :func:`fastseg.ops.matching_cost`.
        filter: as :func:`fastseg.ops.guided_filter`.
        combine: as :func:`fastseg.ops.cross_scale_aggregate`.
        costs: (scales, "left" or "right", first, last) -> (B, last - first, H, W), instead of these three and of the
            second filtering for the sub-pixel parabola: costs of these disparities, infinite where one cannot be. None:
            :class:`~fastseg.stereo.CostFilter` with the matcher's options. ``memory_limit`` goes by what that needs.
        winner: as :func:`fastseg.ops.winner_takes_all`.
        check: as :func:`~fastseg.stereo.left_right_check`.
        confidence: as :func:`~fastseg.stereo.peak_confidence`.
        fill: as :func:`~fastseg.stereo.fill_invalid`.
        median: as :func:`fastseg.ops.weighted_median`.
        offset: as :func:`~fastseg.stereo.subpixel_offset`.
        smooth: as :func:`~fastseg.stereo.median_filter`.
        wls: as :func:`~fastseg.stereo.wls_refine`.
    """

    scales: Callable[[Tensor, Tensor], Scales] | None = None
    matching_cost: Callable[..., Any] = ops.matching_cost
    filter: Callable[..., Any] = ops.guided_filter
    combine: Callable[..., Any] = ops.cross_scale_aggregate
    costs: Callable[[Scales, str, int, int], Tensor] | None = None
    winner: Callable[..., Any] = ops.winner_takes_all
    check: Callable[..., Any] = refinement.left_right_check
    confidence: Callable[..., Any] = refinement.peak_confidence
    fill: Callable[..., Any] = refinement.fill_invalid
    median: Callable[..., Any] = ops.weighted_median
    offset: Callable[..., Any] = refinement.subpixel_offset
    smooth: Callable[..., Any] = refinement.median_filter
    wls: Callable[..., Any] = refinement.wls_refine
