"""What is asked of the affine of a volume: the matrix that takes voxel indices to millimetres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def is_affine(matrix: NDArray[np.floating]) -> bool:
    """Whether it is of shape (4, 4), finite, and has an inverse."""
    return matrix.shape == (4, 4) and bool(np.isfinite(matrix).all() and np.linalg.det(matrix[:3, :3]) != 0)


def checked_affine(op: str, affine: NDArray[np.floating]) -> NDArray[np.float64]:
    """``affine`` in float64.

    Raises:
        ValueError: it is none; ``op`` is who asked.
    """
    checked = np.asarray(affine, np.float64)
    if not is_affine(checked):
        raise ValueError(f"{op}: affine is {checked.tolist()}, expected (4, 4) with an inverse")
    return checked
