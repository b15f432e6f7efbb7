"""Whether two volumes are of the same voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastseg.io.nifti import LabelVolume, Volume, VolumeError

# Of a voxel: what affines may differ by, in any corner of the volume.
_SAME_PLACE = 0.1


def check_same_grid(path: Path, volume: Volume | LabelVolume, like_path: Path, like: Volume | LabelVolume) -> None:
    """Refuses another number of voxels, or an affine that puts a corner elsewhere by more than a tenth of a voxel.

    Args:
        path, like_path: where the volumes came from, for the message.

    Raises:
        VolumeError: says what differs.
    """
    shape, expected = volume.data.shape[-3:], like.data.shape[-3:]
    other = like_path.name if like_path.parent == path.parent else like_path
    if shape != expected:
        raise VolumeError(f"{path}: {_size(shape)} voxels, expected those of {other}, {_size(expected)}")
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(shape) - 1)
    moved = corners @ (volume.affine - like.affine)[:3, :3].T + (volume.affine - like.affine)[:3, 3]
    distance = np.linalg.norm(moved, axis=1).max()
    if distance > _SAME_PLACE * np.linalg.norm(like.affine[:3, :3], axis=0).min():
        raise VolumeError(
            f"{path}: the affine is {_rows(volume.affine)}, that of {other} {_rows(like.affine)}: the volumes "
            f"lie up to {distance:.3g} mm apart, expected one place"
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _rows(affine: NDArray[np.float64]) -> str:
    return str(affine[:3].round(4).tolist())
