"""Reading and writing: medical volumes and data sets, images, disparity maps, calibrations, point clouds and meshes.

Each format is imported with its first use, because each needs a library of its own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fastseg.io.files import FileError, written_together, written_whole

if TYPE_CHECKING:
    from fastseg.io.brats import BratsCase, find_brats, load_brats
    from fastseg.io.calibration import CalibrationError, load_calibration
    from fastseg.io.disparity import load_disparity, save_depth_png, save_npy, save_pfm
    from fastseg.io.images import ImageError, load_image, save_image
    from fastseg.io.lgg import LggCase, LggMasks, find_lgg, has_lgg_masks, load_lgg, load_lgg_masks
    from fastseg.io.nifti import (
        LabelVolume,
        Volume,
        VolumeError,
        from_ras,
        load_labels,
        load_nifti,
        ras_spacing,
        save_nifti,
        to_ras,
    )
    from fastseg.io.ply import save_mesh, save_point_cloud

__all__ = [
    "BratsCase",
    "CalibrationError",
    "FileError",
    "ImageError",
    "LabelVolume",
    "LggCase",
    "LggMasks",
    "Volume",
    "VolumeError",
    "find_brats",
    "find_lgg",
    "from_ras",
    "has_lgg_masks",
    "load_brats",
    "load_calibration",
    "load_disparity",
    "load_image",
    "load_labels",
    "load_lgg",
    "load_lgg_masks",
    "load_nifti",
    "ras_spacing",
    "save_depth_png",
    "save_image",
    "save_mesh",
    "save_nifti",
    "save_npy",
    "save_pfm",
    "save_point_cloud",
    "to_ras",
    "written_together",
    "written_whole",
]

_FORMATS = {
    "brats": ("BratsCase", "find_brats", "load_brats"),
    "calibration": ("CalibrationError", "load_calibration"),
    "disparity": ("load_disparity", "save_depth_png", "save_npy", "save_pfm"),
    "images": ("ImageError", "load_image", "save_image"),
    "lgg": ("LggCase", "LggMasks", "find_lgg", "has_lgg_masks", "load_lgg", "load_lgg_masks"),
    "nifti": (
        "LabelVolume",
        "Volume",
        "VolumeError",
        "from_ras",
        "load_labels",
        "load_nifti",
        "ras_spacing",
        "save_nifti",
        "to_ras",
    ),
    "ply": ("save_mesh", "save_point_cloud"),
}
_FORMAT_OF = {name: module for module, names in _FORMATS.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _FORMAT_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FORMAT_OF[name]}"), name)
