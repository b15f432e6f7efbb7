"""Stereo reconstruction: from a rectified pair to disparities, and from those to points and surfaces."""

from fastseg.stereo.calibration import RectifiedCalibration
from fastseg.stereo.geometry import depth_from_disparity, disparity_from_depth, triangulate
from fastseg.stereo.point_cloud import PointCloud, point_cloud
from fastseg.stereo.surface import Mesh, surface_mesh

__all__ = [
    "Mesh",
    "PointCloud",
    "RectifiedCalibration",
    "depth_from_disparity",
    "disparity_from_depth",
    "point_cloud",
    "surface_mesh",
    "triangulate",
]
