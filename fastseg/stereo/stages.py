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
        costs: (scales, "left" or "right", first, last) -> (B, last - first, H, W): filtered costs of these disparities
            for the matcher's choice of the winner; None: :class:`~fastseg.stereo.CostFilter` with its options.
        check: as :func:`~fastseg.stereo.left_right_check`.
        fill: as :func:`~fastseg.stereo.fill_invalid`.
        median: as :func:`fastseg.ops.weighted_median`.
        offset: as :func:`~fastseg.stereo.subpixel_offset`.
        confidence: as :func:`~fastseg.stereo.peak_confidence`.
        smooth: as :func:`~fastseg.stereo.median_filter`.
        wls: as :func:`~fastseg.stereo.wls_refine`.
    """

    costs: Callable[[Scales, str, int, int], Tensor] | None = None
    check: Callable[..., Any] = refinement.left_right_check
    fill: Callable[..., Any] = refinement.fill_invalid
    median: Callable[..., Any] = ops.weighted_median
    offset: Callable[..., Any] = refinement.subpixel_offset
    confidence: Callable[..., Any] = refinement.peak_confidence
    smooth: Callable[..., Any] = refinement.median_filter
    wls: Callable[..., Any] = refinement.wls_refine
