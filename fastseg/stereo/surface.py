"""A surface through the points of an image's pixels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastseg.ops.arrays import Array
from fastseg.stereo.point_cloud import checked


@dataclass(frozen=True)
class Mesh:
    """Triangles in NumPy arrays.

    Attributes:
        vertices: (N, 3), float32, in camera coordinates: X right, Y down, Z away from the camera.
        faces: (M, 3), int32, indices of vertices; counter-clockwise as the camera sees them in a right-handed system,
            so that normals point to the camera.
        colors: (N, 3), uint8, red, green, blue; or None.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    colors: NDArray[np.uint8] | None = None

    def save(self, path: str | os.PathLike[str], *, y_up: bool = False) -> None:
        """Write a binary PLY file; :func:`fastseg.io.save_mesh` describes it."""
        from fastseg.io.ply import save_mesh  # trimesh belongs to an extra

        save_mesh(path, self.vertices, self.faces, self.colors, y_up=y_up)


def surface_mesh(
    points: Array,
    colors: Array | None = None,
    valid: Array | None = None,
    *,
    max_depth_step: float = 0.05,
    max_depth: float | None = None,
) -> Mesh:
    """Two triangles for every four neighbouring pixels, cut where the depth steps.

    Four pixels are divided along the shorter of their two diagonals in space. A triangle is there if its three points
    are valid and no edge of it has a depth step |Z1 - Z2| > ``max_depth_step`` min(Z1, Z2). In disparities that is
    a step of about ``max_depth_step`` (d + doffs): background and the object before it are not joined, a slanted
    surface is. If one of four points is missing or on the other side of a step, the other three make a triangle.

    Args:
        points: (H, W, 3), as :func:`triangulate` gives them; NumPy, CuPy or torch. Points which are not finite or not
            in front of the camera are not valid.
        colors: (H, W), (H, W, 3) or (3, H, W): uint8, uint16, or floating point from 0 to 1.
        valid: (H, W), bool.
        max_depth_step: infinity cuts at invalid points alone.
        max_depth: points with a larger Z are left out.

    Returns:
        Triangles, and those points that belong to one, in the order of the pixels.
    """
    op = "surface_mesh"
    if not max_depth_step > 0:
        raise ValueError(f"{op}: max_depth_step is {max_depth_step}, expected a number > 0")
    xyz, painted, known = checked(op, points, colors, valid, max_depth)
    if xyz.ndim != 3 or xyz.shape[0] * xyz.shape[1] > np.iinfo(np.int32).max:
        raise ValueError(f"{op}: points has shape {tuple(xyz.shape)}, expected (H, W, 3) of fewer than 2^31 points")
    faces = _faces(xyz, known, max_depth_step)
    used = torch.zeros(known.numel(), dtype=torch.bool, device=xyz.device)
    used[faces.reshape(-1)] = True
    renumbered = used.cumsum(0, dtype=torch.int32) - 1
    return Mesh(
        xyz.reshape(-1, 3)[used].to(torch.float32).cpu().numpy(),
        renumbered[faces].cpu().numpy(),
        None if painted is None else painted.reshape(-1, 3)[used].cpu().numpy(),
    )


def _faces(xyz: Tensor, known: Tensor, max_depth_step: float) -> Tensor:
    """(M, 3), indices of pixels. The corners of four pixels are a b on the upper row and c d below."""
    z = torch.where(known, xyz[..., 2], torch.nan)  # every comparison with NaN is false: no edge there

    def joined(one: tuple[slice, slice], other: tuple[slice, slice]) -> Tensor:
        return (z[one] - z[other]).abs() <= max_depth_step * torch.minimum(z[one], z[other])

    first, last, every = slice(None, -1), slice(1, None), slice(None)
    a, b, c, d = (first, first), (first, last), (last, first), (last, last)
    across, along = joined((every, first), (every, last)), joined((first, every), (last, every))
    ab, cd, ac, bd = across[:-1], across[1:], along[:, :-1], along[:, 1:]
    ad, bc = joined(a, d), joined(b, c)
    length_ad = torch.where(ad, (xyz[a] - xyz[d]).square().sum(-1), math.inf)
    length_bc = torch.where(bc, (xyz[b] - xyz[c]).square().sum(-1), math.inf)
    by_ad = length_ad <= length_bc
    by_bc = ~by_ad
    width = xyz.shape[1]
    pixel = torch.arange(known.numel(), device=xyz.device).reshape(known.shape)[a]
    corner = {"a": pixel, "b": pixel + 1, "c": pixel + width, "d": pixel + width + 1}
    # Y runs down: this order turns the normals to the camera.
    triangles = {
        "acd": by_ad & ad & ac & cd,
        "adb": by_ad & ad & ab & bd,
        "acb": by_bc & bc & ac & ab,
        "bcd": by_bc & bc & cd & bd,
    }
    return torch.cat([torch.stack([corner[k][there] for k in name], -1) for name, there in triangles.items()])
