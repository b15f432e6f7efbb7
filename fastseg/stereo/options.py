"""What a :class:`~fastseg.stereo.StereoMatcher` is told about its stages. Images are in [0, 1], lengths in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from fastseg.ops.checks import check_choice


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
        check_choice("MatchingCost", "kind", self.kind, ("weighted", "ad_census"))

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


@dataclass(frozen=True)
class WLSRefinement:
    """Smoothing of the disparity at last, ``smooth(confidence * d) / smooth(confidence)``, guided by the left image.

    Filled pixels, of confidence 0, count with ``least_confidence``: they would be washed over by far ones otherwise.
    """

    lambda_: float = 1e-3
    alpha: float = 1.2
    least_confidence: float = 0.05


@dataclass(frozen=True)
class Refinement:
    """What follows the winner of each pixel.

    Attributes:
        left_right_tolerance: by how much the disparities of the two views may differ.
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
    median_radius: int = 9
    sigma_color: float = 0.1
    sigma_space: float = 9.0
    subpixel: bool = True
    subpixel_radius: int | None = 5
    smooth: bool = True
    wls: WLSRefinement | None = None

    def __post_init__(self) -> None:
        if not self.left_right_tolerance >= 0:
            raise ValueError(
                f"Refinement: left_right_tolerance is {self.left_right_tolerance}, expected a number of pixels >= 0"
            )
        if self.median_radius < 0 or self.median_radius != int(self.median_radius):
            raise ValueError(f"Refinement: median_radius is {self.median_radius}, expected a whole number >= 0")
        radius = self.subpixel_radius
        if radius is not None and (radius < 0 or radius != int(radius)):
            raise ValueError(f"Refinement: subpixel_radius is {radius}, expected a whole number >= 0 or None")


#: Name of a preset -> options of the matcher that differ from its defaults, which are "accurate".
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"levels": 1, "refine": Refinement(median_radius=4, subpixel_radius=None)},
    "accurate": {},
    "paper": {
        "wls": WLSLevels(),
        "refine": Refinement(subpixel_radius=None, smooth=False, wls=WLSRefinement()),
    },
}


def preset_options(name: str, names: Sequence[str] = tuple(PRESETS)) -> dict[str, Any]:
    """The options of a preset.

    Raises:
        ValueError: there is no such preset.
    """
    check_choice("StereoMatcher", "preset", name, names)
    return dict(PRESETS[name])
