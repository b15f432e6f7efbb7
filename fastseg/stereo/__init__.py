"""Stereo reconstruction: disparities of rectified pairs."""

from fastseg.stereo.disparity_map import DisparityMap
from fastseg.stereo.matcher import StereoMatcher
from fastseg.stereo.options import PRESETS, MatchingCost, Refinement, WLSLevels, WLSRefinement
from fastseg.stereo.pair import StereoPairError
from fastseg.stereo.refinement import (
    fill_invalid,
    left_right_check,
    median_filter,
    peak_confidence,
    subpixel_offset,
    wls_refine,
)
from fastseg.stereo.scales import CostFilter, Scales, image_pyramid, wls_scales
from fastseg.stereo.stages import Stages

__all__ = [
    "PRESETS",
    "CostFilter",
    "DisparityMap",
    "MatchingCost",
    "Refinement",
    "Scales",
    "Stages",
    "StereoMatcher",
    "StereoPairError",
    "WLSLevels",
    "WLSRefinement",
    "fill_invalid",
    "image_pyramid",
    "left_right_check",
    "median_filter",
    "peak_confidence",
    "subpixel_offset",
    "wls_refine",
    "wls_scales",
]
