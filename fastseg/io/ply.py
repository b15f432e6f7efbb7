"""Point clouds and meshes as binary PLY files, which MeshLab, Blender, CloudCompare, Open3D and PCL read.

Meshes also as OBJ and STL, for programs that take nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import trimesh
except ImportError as error:
    raise ImportError('PLY files need trimesh: pip install "fastseg-kernels[stereo]"') from error

from fastseg.io.files import FileError, check_ending, saving

#: What the name of a file with a mesh may end in.
MESH_ENDINGS = (".ply", ".obj", ".stl")
_EXPORT_OPTIONS: dict[str, dict[str, Any]] = {
    ".ply": {"encoding": "binary", "vertex_normal": False},
    ".obj": {"include_normals": False, "write_texture": False, "header": None},
    ".stl": {},
}


def save_point_cloud(
    path: str | os.PathLike[str],
    points: NDArray[np.floating],
    colors: NDArray[np.uint8] | None = None,
    *,
    y_up: bool = False,
) -> None:
    """Write points, float32, with their colours; the file appears whole or not at all.

    Args:
        path: ends in ``.ply``.
        points: (N, 3), finite, at least one.
        colors: (N, 3), uint8: red, green, blue.
        y_up: turn the scene by half a turn about X, (X, -Y, -Z). Points as :func:`fastseg.stereo.triangulate` gives
            them have Y down and the scene before the camera at +Z, as in OpenCV, ROS and Open3D. They are kept by
            default: what is measured in the file is then what was computed. Viewers that have Y up and look along -Z,
            which most do, show them upside down; with ``y_up`` they open with the picture that the camera took.

    Raises:
        FileError: another ending, nothing to write, or a folder that cannot be written to.
    """
    path = Path(path)
    positions = _checked(path, points, colors, y_up, ".ply")
    _export(path, trimesh.PointCloud(positions, colors=colors))


def save_mesh(
    path: str | os.PathLike[str],
    vertices: NDArray[np.floating],
    faces: NDArray[np.integer],
    colors: NDArray[np.uint8] | None = None,
    *,
    y_up: bool = False,
) -> None:
    """Write triangles, (M, 3) indices of vertices; the rest is as in :func:`save_point_cloud`.

    The half turn of ``y_up`` keeps the side to which triangles face. The ending may also be ``.obj``, which is text, or
    ``.stl``, which is binary, repeats each vertex for each of its triangles, and holds no colours.
    """
    path = Path(path)
    positions = _checked(path, vertices, colors, y_up, *MESH_ENDINGS)
    if colors is not None and path.suffix.lower() == ".stl":
        raise FileError(f"{path}: STL holds no colors, expected None, or .ply or .obj")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu" or not len(faces):
        raise FileError(f"{path}: faces of {faces.dtype} and shape {faces.shape}, expected integers of (M, 3), M > 0")
    if faces.min() < 0 or faces.max() >= len(positions):
        raise FileError(f"{path}: faces name {faces.min()} to {faces.max()}, expected 0 to {len(positions) - 1}")
    # Not processed: that would merge vertices and take seconds.
    _export(path, trimesh.Trimesh(positions, faces, vertex_colors=colors, process=False))


def _checked(
    path: Path, points: NDArray[np.floating], colors: NDArray[np.uint8] | None, y_up: bool, *endings: str
) -> NDArray[np.floating]:
    check_ending(path, FileError, *endings)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise FileError(f"{path}: points of shape {points.shape}, expected (N, 3) with at least one point")
    if not np.isfinite(points).all():
        raise FileError(f"{path}: {np.count_nonzero(~np.isfinite(points).all(1))} points are not finite")
    if colors is not None and (colors.shape != points.shape or colors.dtype != np.uint8):
        raise FileError(f"{path}: colors of {colors.dtype} and shape {colors.shape}, expected uint8 of {points.shape}")
    return points * np.array([1, -1, -1], points.dtype) if y_up else points


def _export(path: Path, geometry: Any) -> None:
    ending = path.suffix.lower()
    with saving(path, FileError) as temporary:
        geometry.export(temporary, file_type=ending[1:], **_EXPORT_OPTIONS[ending])
