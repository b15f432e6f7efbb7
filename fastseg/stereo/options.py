"""What a :class:`~fastseg.stereo.StereoMatcher` is told about its stages. Images are in [0, 1], lengths in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from fastseg.ops.checks import check_choice, check_not_negative
from fastseg.ops.guided_filter import check_guided_filter
from fastseg.ops.matching_cost import COSTS, check_weights, check_window
from fastseg.ops.weighted_median import check_weighted_median
from fastseg.ops.wls_arguments import check_parameters as check_wls


@dataclass(frozen=True)
class MatchingCost:
    """The cost of a candidate, as :func:`fastseg.ops.matching_cost` takes it.

    The census window is small: a large one is blind where its pixels lie on both sides of an edge, and the guided
    filter gathers support anyway. On Middlebury's pairs 3x3 is better than 7x9 everywhere but in smooth areas.
    """

    kind: str = "weighted"  #: or "ad_census"
    ad_weight: float = 0.11
    gradient_weight: float = 0.89
    census_weight: float = 0.01
    ad_threshold: float = 7 / 255
    gradient_threshold: float = 2 / 255
    census_window: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        op = "MatchingCost"
        check_choice(op, "kind", self.kind, COSTS)
        weights = {name: getattr(self, name) for name in ("ad_weight", "gradient_weight", "census_weight")}
        check_weights(op, self.kind, **weights)
        for name in ("ad_threshold", "gradient_threshold"):
            check_not_negative(op, name, getattr(self, name))
        check_window(op, "census_window", self.census_window)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of :func:`fastseg.ops.matching_cost`."""
        if self.kind == "ad_census":
            return {"cost": self.kind, "census_window": self.census_window}
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "kind"}
        return {"cost": self.kind, **named}


@dataclass(frozen=True)
class WLSLevels:
    """Levels of one size: each image is the one before, smoothed by :func:`fastseg.ops.wls_decompose`."""

    lambda_: float = 0.1
    factor: float = 2.0
    alpha: float = 1.2
    iterated: bool = True

    def __post_init__(self) -> None:
        check_wls("WLSLevels", self.lambda_, self.alpha, eps=1.0)
        if not 0 < self.factor < math.inf:
            raise ValueError(f"WLSLevels: factor is {self.factor}, expected a finite number > 0")


@dataclass(frozen=True)
class WLSRefinement:
    """Smoothing of the disparity at last, ``smooth(confidence * d) / smooth(confidence)``, guided by the left image.

    Filled pixels, of confidence 0, count with ``least_confidence``: they would be washed over by far ones otherwise.
    """

    lambda_: float = 1e-3
    alpha: float = 1.2
    least_confidence: float = 0.05

    def __post_init__(self) -> None:
        check_wls("WLSRefinement", self.lambda_, self.alpha, eps=1.0)
        check_share("WLSRefinement", "least_confidence", self.least_confidence)


@dataclass(frozen=True)
class Refinement:
    """What follows the winner of each pixel.

    Attributes:
        left_right_tolerance: by how much the disparities of the two views may differ.
        least_confidence: below which a pixel is not valid: the order of its candidates is chance.
        median_radius: of the weighted median over pixels that fail the check; 0 leaves the plain fill.
        sigma_color, sigma_space: of that median's weights.
        subpixel: whether a parabola through the costs places the minimum between whole disparities.
        subpixel_radius: windows of the costs that this parabola goes through, smaller than those of the winner, which
            are blind to slopes; None takes the winner's own costs, in half the time.
        smooth: whether the median of 3x3 pixels is taken at last.
        wls: WLS smoothing at last, or None. It calms noise on surfaces, and rounds depth edges where colours are alike:
            on Middlebury's pairs the average error falls a little and the share of wrong pixels rises a little.
    """

    left_right_tolerance: float = 1.0
    least_confidence: float = 0.01
    median_radius: int = 9
    sigma_color: float = 0.1
    sigma_space: float = 9.0
    subpixel: bool = True
    subpixel_radius: int | None = 5
    smooth: bool = True
    wls: WLSRefinement | None = None

    def __post_init__(self) -> None:
        op = "Refinement"
        check_not_negative(op, "left_right_tolerance", self.left_right_tolerance)
        check_share(op, "least_confidence", self.least_confidence)
        check_weighted_median(op, self.median_radius, self.sigma_color, self.sigma_space)
        if self.subpixel_radius is not None:
            check_guided_filter(op, self.subpixel_radius, 1.0, "truncate")


def check_share(op: str, name: str, value: float) -> None:
    """Raises ValueError for a number that is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{op}: {name} is {value}, expected a number from 0 to 1")


#: Name of a preset -> options of the matcher that differ from its defaults, which are "accurate".
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"levels": 1, "refine": Refinement(median_radius=4, subpixel_radius=None)},
    "accurate": {},
    "paper": {
        "wls": WLSLevels(),
        "refine": Refinement(subpixel_radius=None, smooth=False, wls=WLSRefinement()),
    },
}


def preset_options(name: str) -> dict[str, Any]:
    """The options of a preset.

    Raises:
        ValueError: there is no such preset.
    """
    check_choice("StereoMatcher", "preset", name, PRESETS)
    return dict(PRESETS[name])
