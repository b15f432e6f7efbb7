"""What masks go through after the network: holes filled, small components and false cores removed, regions nested.

All functions take and give bool arrays of voxels, (X, Y, Z) or another number of axes. A minimum size may be given in
voxels, in millilitres with the size of a voxel, or as both: the larger counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

try:
    from scipy import ndimage
except ImportError as error:
    raise ImportError('Post-processing needs scipy: pip install "fastseg-kernels[segmentation]"') from error

Mask = NDArray[np.bool_]


def minimum_voxels(min_voxels: int = 0, min_ml: float = 0.0, voxel_mm3: float = 1.0) -> int:
    """The larger of a size in voxels and one in millilitres, in voxels.

    Raises:
        ValueError: a negative size, or a voxel without volume.
    """
    if min_voxels < 0:
        raise ValueError(f"min_voxels is {min_voxels}, expected a number >= 0")
    if not 0 <= min_ml < math.inf:  # also refuses NaN
        raise ValueError(f"min_ml is {min_ml}, expected a number >= 0")
    if not 0 < voxel_mm3 < math.inf:
        raise ValueError(f"voxel_mm3 is {voxel_mm3}, expected a number > 0")
    return max(min_voxels, math.ceil(1000 * min_ml / voxel_mm3 - 1e-9))


def fill_holes(mask: Mask) -> Mask:
    """The mask with every cavity that it encloses: what no path through faces of voxels leads out of."""
    return _in_box(mask, ndimage.binary_fill_holes)


def remove_small_components(
    mask: Mask, *, min_voxels: int = 0, min_ml: float = 0.0, voxel_mm3: float = 1.0, connectivity: int = 1
) -> Mask:
    """The mask without components smaller than the minimum.

    Args:
        voxel_mm3: volume of a voxel in cubic millimetres, for ``min_ml``.
        connectivity: along how many axes two voxels may differ by one and still touch: 1 is by faces.
    """
    least = minimum_voxels(min_voxels, min_ml, voxel_mm3)

    def large(part: Mask) -> Mask:
        components = _components(part, connectivity)
        return _kept(components, np.bincount(components.ravel()) >= least)

    return _in_box(mask, large) if least > 1 else mask.copy()


def remove_false_cores(
    core: Mask,
    whole: Mask,
    *,
    min_voxels: int = 0,
    min_ml: float = 0.0,
    voxel_mm3: float = 1.0,
    connectivity: int = 1,
) -> Mask:
    """The core without components that lie outside the whole tumour or are smaller than the minimum.

    What is left of a component is its part inside the whole tumour, whose size is the one that counts.

    Args:
        core, whole: masks of one shape.
        voxel_mm3, connectivity: as in :func:`remove_small_components`.

    Raises:
        ValueError: the shapes differ.
    """
    if core.shape != whole.shape:
        raise ValueError(f"whole has shape {whole.shape}, expected that of core, {core.shape}")
    return remove_small_components(
        core & whole, min_voxels=min_voxels, min_ml=min_ml, voxel_mm3=voxel_mm3, connectivity=connectivity
    )


def nested(regions: Mask) -> Mask:
    """Regions (R, ...), from the outermost to the innermost, each cut to the one before it."""
    return np.logical_and.accumulate(regions, axis=0)


@dataclass(frozen=True)
class Postprocessing:
    """All of it, in this order: whole tumour, core, enhancing tumour.

    The enhancing tumour's cavities stay: they are necrotic core.

    Attributes:
        min_whole_ml: of a component of the whole tumour.
        min_core_ml: of a component of the tumour core.
        fill: whether cavities of whole tumour and core are filled.
        connectivity: of components.
    """

    min_whole_ml: float = 0.1
    min_core_ml: float = 0.01
    fill: bool = True
    connectivity: int = 1

    def __post_init__(self) -> None:
        minimum_voxels(0, self.min_whole_ml)
        minimum_voxels(0, self.min_core_ml)

    def __call__(self, regions: Mask, voxel_mm3: float = 1.0) -> Mask:
        """Regions (R, X, Y, Z), whole tumour first, then core and enhancing tumour if there are any; nested."""
        result = np.zeros_like(regions)
        result[0] = self.large(fill_holes(regions[0]) if self.fill else regions[0], voxel_mm3)
        if len(regions) > 1:
            core = fill_holes(regions[1]) if self.fill else regions[1]
            result[1] = remove_false_cores(
                core, result[0], min_ml=self.min_core_ml, voxel_mm3=voxel_mm3, connectivity=self.connectivity
            )
            result[2:] = regions[2:]
        return nested(result)

    def large(self, whole: Mask, voxel_mm3: float = 1.0) -> Mask:
        """The components of the whole tumour that are large enough."""
        return remove_small_components(
            whole, min_ml=self.min_whole_ml, voxel_mm3=voxel_mm3, connectivity=self.connectivity
        )


def _components(mask: Mask, connectivity: int) -> NDArray[np.int32]:
    if not 1 <= connectivity <= mask.ndim:
        raise ValueError(f"connectivity is {connectivity}, expected a number from 1 to {mask.ndim}")
    components: NDArray[np.int32]
    components, _ = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, connectivity))
    return components


def _kept(components: NDArray[np.int32], keep: Mask) -> Mask:
    keep[0] = False  # the background
    return keep[components]


def _in_box(mask: Mask, work: Callable[[Mask], Mask]) -> Mask:
    """``work`` on the bounding box alone: a tumour fills a small part of a head, and the box has all there is."""
    result = np.zeros_like(mask)
    boxes = ndimage.find_objects(mask.astype(np.int8), max_label=1)
    if boxes[0] is not None:
        result[boxes[0]] = work(mask[boxes[0]])
    return result
