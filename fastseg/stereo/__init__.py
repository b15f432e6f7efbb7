"""Stereo reconstruction: from a rectified pair to disparities, and from those to points and surfaces."""

from fastseg.stereo.calibration import RectifiedCalibration
from fastseg.stereo.evaluation import RegionScores, StereoScores, evaluate_disparity, middlebury_masks
from fastseg.stereo.geometry import depth_from_disparity, disparity_from_depth, triangulate
from fastseg.stereo.point_cloud import PointCloud, point_cloud
from fastseg.stereo.scene import RenderedPair, rendered_pair
from fastseg.stereo.surface import Mesh, surface_mesh

__all__ = [
    "Mesh",
    "PointCloud",
    "RectifiedCalibration",
    "RegionScores",
    "RenderedPair",
    "StereoScores",
    "depth_from_disparity",
    "disparity_from_depth",
    "evaluate_disparity",
    "middlebury_masks",
    "point_cloud",
    "rendered_pair",
    "surface_mesh",
    "triangulate",
]
