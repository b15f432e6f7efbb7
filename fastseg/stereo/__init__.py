"""Disparity from rectified pairs: scores against a known truth, and a rendered pair that has one."""

from fastseg.stereo.evaluation import RegionScores, StereoScores, evaluate_disparity, middlebury_masks
from fastseg.stereo.scene import RenderedPair, rendered_pair

__all__ = [
    "RegionScores",
    "RenderedPair",
    "StereoScores",
    "evaluate_disparity",
    "middlebury_masks",
    "rendered_pair",
]
