"""Reading and writing medical volumes."""

from fastseg.io.nifti import Volume, VolumeError, from_ras, load_nifti, ras_spacing, save_nifti, to_ras, written_whole

__all__ = [
    "Volume",
    "VolumeError",
    "from_ras",
    "load_nifti",
    "ras_spacing",
    "save_nifti",
    "to_ras",
    "written_whole",
]
