"""Surfaces of segmented regions, closed and in millimetres."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastseg.io.affine import checked_affine
from fastseg.io.files import listed

try:
    import trimesh
    from skimage.measure import block_reduce, marching_cubes
except ImportError as error:
    raise ImportError('Meshes need scikit-image and trimesh: pip install "fastseg-kernels[segmentation]"') from error

# Means of blocks are often a half exactly, which would give triangles without an area.
_LEVEL = 0.4999
# The steps in and out of Taubin's smoothing: they leave frequencies below 1 / _IN - 1 / _OUT as they are.
_IN, _OUT = 0.5, 0.52
_NAMED = 30  # labels in an error at most


@dataclass(frozen=True)
class Mesh:
    """Triangles around regions of a volume.

    Attributes:
        vertices: (V, 3), float32, in the millimetres of the affine: to the right, to the front and up (RAS+).
        faces: (F, 3), int32, indices of vertices; counter-clockwise from outside, so that normals point outwards.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]

    @property
    def volume(self) -> float:
        """What the surface encloses, in cubic millimetres; hollows are not counted."""
        return float(_trimesh(self.vertices, self.faces).volume)

    @property
    def area(self) -> float:
        """Of the surface, in square millimetres, that of hollows included."""
        return float(_trimesh(self.vertices, self.faces).area)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.ply``, ``.obj`` or ``.stl`` file; :func:`fastseg.io.save_mesh` describes it."""
        from fastseg.io import save_mesh

        save_mesh(path, self.vertices, self.faces)


def label_mesh(
    labels: NDArray[np.integer] | NDArray[np.bool_],
    label: int | Iterable[int] | None,
    affine: NDArray[np.floating],
    *,
    smoothing: int = 10,
    step: int = 1,
) -> Mesh:
    """The surface between voxels of some labels and all others, by marching cubes (Lewiner et al. 2003).

    It is closed, at the border of the volume too, and lies halfway between the centres of the voxels on its two sides.
    Several labels give one surface around all of them.

    Args:
        labels: (X, Y, Z), integers or bool.
        label: one, or several; None for everything but 0.
        affine: (4, 4), voxel indices to millimetres in RAS+ space; it may turn and mirror the axes.
        smoothing: how many times Taubin's filter (1995) goes over the surface: a step in and a step out, so that the
            steps between voxels go and the volume stays, within a few percent for what is some voxels thick. 0 leaves
            the surface as marching cubes gives it.
        step: marching cubes sees the means of blocks of ``step`` voxels along each axis, for fewer triangles. What is
            thinner than a block may vanish.

    Raises:
        ValueError: labels of another shape or dtype; no voxel with one of the labels, or none that is left by ``step``;
            an affine without an inverse; a negative or fractional ``smoothing``, a ``step`` below 1.
    """
    to_space = checked_affine("label_mesh", affine)
    _check(labels, smoothing, step)
    mask = _mask(labels, label)
    box = tuple(slice(int(used.min()), int(used.max()) + 1) for used in np.nonzero(mask))
    blocks = block_reduce(mask[box].astype(np.float32), step, np.mean)  # fills the last blocks up with zeros
    if not (blocks > _LEVEL).any():
        raise ValueError(f"label_mesh: step is {step}, but no block of {step} voxels a side is half full")
    # The border of zeros closes the surface.
    points, faces, _, _ = marching_cubes(np.pad(blocks, 1), _LEVEL)
    # From the middles of blocks to voxels: without the border, and (step - 1) / 2 from a block's first voxel.
    indices = (points.astype(np.float64) - 1) * step + (step - 1) / 2 + [used.start for used in box]
    surface = _trimesh(indices @ to_space[:3, :3].T + to_space[:3, 3], faces)
    # Inside out after an affine that mirrors, and otherwise by the habit of marching_cubes: the volume tells.
    if surface.volume < 0:
        surface.invert()
    if smoothing:
        trimesh.smoothing.filter_taubin(surface, lamb=_IN, nu=_OUT, iterations=2 * smoothing)
    return Mesh(np.asarray(surface.vertices, np.float32), np.asarray(surface.faces, np.int32))


def _trimesh(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices, faces, process=False)


def _mask(labels: NDArray[np.integer] | NDArray[np.bool_], label: int | Iterable[int] | None) -> NDArray[np.bool_]:
    if label is None:
        mask, asked = labels != 0, "a label other than 0"
    else:
        members = sorted({label} if isinstance(label, int | np.integer) else set(label))
        if not members or 0 in members:
            raise ValueError(f"label_mesh: label is {label}, expected labels other than 0, which is the background")
        mask, asked = np.isin(labels, members), "label " + " or ".join(map(str, members))
    if not mask.any():
        there = [int(value) for value in np.unique(labels) if value]
        found = f"labels {listed(there, _NAMED)}" if there else "none"
        raise ValueError(f"label_mesh: no voxel has {asked}: there are {found}")
    return mask


def _check(labels: NDArray[np.generic], smoothing: int, step: int) -> None:
    if labels.ndim != 3 or labels.dtype.kind not in "biu":
        raise ValueError(
            f"label_mesh: labels is {labels.dtype} of shape {labels.shape}, expected integers or bool of (X, Y, Z)"
        )
    if smoothing != int(smoothing) or smoothing < 0:
        raise ValueError(f"label_mesh: smoothing is {smoothing}, expected a whole number >= 0")
    if step != int(step) or step < 1:
        raise ValueError(f"label_mesh: step is {step}, expected a whole number >= 1")
