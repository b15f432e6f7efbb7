"""Volumes and slices of any source as a network wants them, and the way back to the grid of the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastseg.io import BratsCase, LggCase, Volume, from_ras, ras_spacing, to_ras
from fastseg.segmentation.preprocess import brain_mask, resample, resize, zscore

#: What :func:`prepared` takes.
Case = BratsCase | LggCase | Volume | NDArray[np.generic] | Tensor

# Networks of BraTS see voxels of 1 mm; what is off by more than this share is said.
_SPACING_TOLERANCE = 0.2


@dataclass(frozen=True)
class Scan:
    """An image in RAS order, and what is needed to bring results back.

    Attributes:
        image: (C, X, Y, Z), float32, each channel with zero mean and unit deviation inside the brain, zero outside.
        brain: (X, Y, Z), bool.
        voxel_mm3: volume of a voxel of the source in cubic millimetres; 1 where the source does not say.
        shape: of the source in RAS order, before it was resampled.
        affine: of the source; None: the source is an array or a stack of slices, and its order is kept.
        notes: what a reader of the results should know.
    """

    image: Tensor
    brain: Tensor
    voxel_mm3: float
    shape: tuple[int, ...]
    affine: NDArray[np.float64] | None
    notes: tuple[str, ...] = ()

    def resampled_back(self, probabilities: Tensor) -> Tensor:
        """(K, X, Y, Z) on the grid of ``image`` to that of the source, interpolated linearly."""
        return probabilities if tuple(probabilities.shape[1:]) == self.shape else resize(probabilities, self.shape)

    def oriented_back(self, result: NDArray[np.generic]) -> NDArray[np.generic]:
        """(..., X, Y, Z) in RAS order to the order of the source."""
        return result if self.affine is None else from_ras(result, self.affine)


def prepared(case: Case, *, spacing: float | None = None) -> Scan:
    """Bring a case into RAS order, resample it if asked, and normalise it.

    Args:
        case: a volume or a case as read; a patient's slices, which become (3, H, W, S); or (C, X, Y, Z), in RAS order
            with voxels of 1 mm.
        spacing: resample volumes to voxels of so many millimetres, where theirs are not within 5 %; None: keep theirs.

    Raises:
        ValueError: an array of another rank or with values that are not finite, or a spacing for slices or below zero.
    """
    if spacing is not None and not 0 < spacing < float("inf"):
        raise ValueError(f"spacing is {spacing}, expected millimetres above 0")
    notes: tuple[str, ...] = ()
    affine, zooms = None, (1.0, 1.0, 1.0)
    if isinstance(case, LggCase):
        if spacing is not None:
            raise ValueError(f"spacing is {spacing}, expected none: slices of {case.name} do not say theirs")
        data = np.moveaxis(case.images, (0, 3), (3, 0)).astype(np.float32)
    elif isinstance(case, BratsCase | Volume):
        volume = case.volume if isinstance(case, BratsCase) else case
        affine, zooms = volume.affine, ras_spacing(volume.affine)
        data = to_ras(volume.data, affine).astype(np.float32, copy=False)
        if spacing is None and any(abs(zoom - 1) > _SPACING_TOLERANCE for zoom in zooms):
            sizes = " x ".join(f"{zoom:.3g}" for zoom in zooms)
            notes = (f"voxels of {sizes} mm are not resampled; a network that was trained on 1 mm expects those",)
    else:
        data = np.asarray(case, np.float32)
    if data.ndim != 4 or 0 in data.shape:
        raise ValueError(f"case has shape {data.shape}, expected (C, X, Y, Z)")
    if not np.isfinite(data).all():
        raise ValueError("case holds values that are not finite (NaN or infinite)")
    image = torch.from_numpy(np.ascontiguousarray(data))
    if spacing is not None:
        image, _ = resample(image, np.diag([*zooms, 1.0]), spacing)
    brain = brain_mask(image)
    return Scan(zscore(image, brain), brain, float(np.prod(zooms)), data.shape[1:], affine, notes)
