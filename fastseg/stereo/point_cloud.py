"""Coloured points of a scene."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastseg.ops.arrays import Array, as_tensor
from fastseg.stereo.unit_range import check_unit_range


@dataclass(frozen=True)
class PointCloud:
    """Points in NumPy arrays.

    Attributes:
        points: (N, 3), float32, in camera coordinates: X right, Y down, Z away from the camera.
        colors: (N, 3), uint8, red, green, blue; or None.
    """

    points: NDArray[np.float32]
    colors: NDArray[np.uint8] | None = None

    def save(self, path: str | os.PathLike[str], *, y_up: bool = False) -> None:
        """Write a binary PLY file; :func:`fastseg.io.save_point_cloud` describes it."""
        from fastseg.io.ply import save_point_cloud  # trimesh belongs to an extra

        save_point_cloud(path, self.points, self.colors, y_up=y_up)


def point_cloud(
    points: Array, colors: Array | None = None, valid: Array | None = None, max_depth: float | None = None
) -> PointCloud:
    """The points that are finite, in front of the camera, valid and near enough.

    Args:
        points: (..., 3), as :func:`triangulate` gives them; NumPy, CuPy or torch.
        colors: for points of (H, W, 3) an image of (H, W), (H, W, 3) or (3, H, W); otherwise the shape of ``points``.
            uint8, uint16, or floating point from 0 to 1.
        valid: bool, the shape of ``points`` without its last axis: False leaves a point out.
        max_depth: points with a larger Z are left out.
    """
    xyz, painted, known = checked("point_cloud", points, colors, valid, max_depth)
    return PointCloud(
        xyz[known].to(torch.float32).cpu().numpy(), None if painted is None else painted[known].cpu().numpy()
    )


def checked(
    op: str, points: Array, colors: Array | None, valid: Array | None, max_depth: float | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Points, colours as bytes of the same shape, and which points are to be taken, all on one device."""
    if max_depth is not None and not max_depth > 0:
        raise ValueError(f"{op}: max_depth is {max_depth}, expected a number > 0")
    xyz = as_tensor(op, "points", points).detach()
    if xyz.ndim < 2 or xyz.shape[-1] != 3:
        raise ValueError(f"{op}: points has shape {tuple(xyz.shape)}, expected (..., 3)")
    if not xyz.is_floating_point():
        raise TypeError(f"{op}: points is {xyz.dtype}, expected floating point")
    known = torch.isfinite(xyz).all(-1) & (xyz[..., 2] > 0)
    if valid is not None:
        mask = as_tensor(op, "valid", valid)
        if mask.dtype != torch.bool or mask.shape != known.shape:
            raise ValueError(
                f"{op}: valid is {mask.dtype} of shape {tuple(mask.shape)}, expected bool of {tuple(known.shape)}"
            )
        known = known & mask.to(xyz.device)
    if max_depth is not None:
        known = known & (xyz[..., 2] <= max_depth)
    return xyz, None if colors is None else _bytes(op, colors, xyz), known


def _bytes(op: str, colors: Array, points: Tensor) -> Tensor:
    paint = as_tensor(op, "colors", colors).detach()
    if paint.dtype == torch.uint16:
        paint = ((paint.to(torch.int32) * 255 + 32767) // 65535).to(torch.uint8)
    if paint.is_floating_point():
        paint = paint.nan_to_num(nan=0.0)
        check_unit_range(op, "colors", paint)
        paint = (paint * 255).round().clamp(0, 255).to(torch.uint8)
    if paint.dtype != torch.uint8:
        raise TypeError(f"{op}: colors is {paint.dtype}, expected uint8, uint16 or floating point from 0 to 1")
    if paint.shape == points.shape[:-1]:
        paint = paint[..., None].expand(points.shape)
    elif paint.shape != points.shape and points.ndim == 3 and paint.shape == (3, *points.shape[:2]):
        paint = paint.movedim(0, -1)
    if paint.shape != points.shape:
        raise ValueError(
            f"{op}: colors has shape {tuple(paint.shape)}, expected one colour for each point of {tuple(points.shape)}"
        )
    return paint.to(points.device)
