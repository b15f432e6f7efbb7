"""Stereo reconstruction: from a rectified pair to disparities, and from those to points and surfaces."""

from fastseg.stereo.calibration import RectifiedCalibration
from fastseg.stereo.disparity_map import DisparityMap
from fastseg.stereo.evaluation import RegionScores, StereoScores, evaluate_disparity, middlebury_masks
from fastseg.stereo.geometry import depth_from_disparity, disparity_from_depth, triangulate
from fastseg.stereo.matcher import StereoMatcher
from fastseg.stereo.options import PRESETS, MatchingCost, Refinement, WLSLevels, WLSRefinement
from fastseg.stereo.pair import StereoPairError
from fastseg.stereo.point_cloud import PointCloud, point_cloud
from fastseg.stereo.refinement import (
    fill_invalid,
    left_right_check,
    median_filter,
    peak_confidence,
    subpixel_offset,
    wls_refine,
)
from fastseg.stereo.scales import CostFilter, Scales, image_pyramid, wls_scales
from fastseg.stereo.scene import RenderedPair, rendered_pair
from fastseg.stereo.stages import Stages
from fastseg.stereo.surface import Mesh, surface_mesh

__all__ = [
    "PRESETS",
    "CostFilter",
    "DisparityMap",
    "MatchingCost",
    "Mesh",
    "PointCloud",
    "RectifiedCalibration",
    "Refinement",
    "RegionScores",
    "RenderedPair",
    "Scales",
    "Stages",
    "StereoMatcher",
    "StereoPairError",
    "StereoScores",
    "WLSLevels",
    "WLSRefinement",
    "depth_from_disparity",
    "disparity_from_depth",
    "evaluate_disparity",
    "fill_invalid",
    "image_pyramid",
    "left_right_check",
    "median_filter",
    "middlebury_masks",
    "peak_confidence",
    "point_cloud",
    "rendered_pair",
    "subpixel_offset",
    "surface_mesh",
    "triangulate",
    "wls_refine",
    "wls_scales",
]
