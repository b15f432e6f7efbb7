"""Synthetic lesions set into real scans: training data with exact masks where there are no patients at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from scipy.ndimage import gaussian_filter
except ImportError as error:
    raise ImportError('Synthetic lesions need scipy: pip install "fastseg-kernels[segmentation]"') from error

#: How much brighter than the brain's mean lesions are, in deviations of its intensities; white matter has about 1.
CONTRAST = (2.0, 3.5)
_TRIES = 1000  # to find a place
_BORDER = 4  # voxels around the bounding box, for noise and edge


def add_lesion(
    volume: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    radius: tuple[float, float] = (6.0, 16.0),
    contrast: tuple[float, float] = CONTRAST,
    softness: float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Set one bright lesion into brain tissue: an ellipsoid with a lumpy, soft edge and a texture of its own,
    which takes the place of the tissue.

    Args:
        volume: (X, Y, Z) or (C, X, Y, Z), float32; zero outside the brain.
        rng: draws place, radii, lumps, texture and contrast; the same state gives the same lesion.
        radius: the least and the largest half axis, in voxels.
        contrast: how much brighter than the brain's mean the lesion is, at least and at most, in standard deviations of
            the brain's intensities.
        softness: of the edge, in voxels: over about four of them the lesion fades out.

    Returns:
        A copy of ``volume`` with the lesion, and (X, Y, Z), where it is at least half there. The voxels outside the
        brain stay as they are.

    Raises:
        ValueError: another rank, a radius below 1 or in the wrong order, or a brain too small for the least radius.
    """
    if volume.ndim not in (3, 4):
        raise ValueError(f"add_lesion: volume has shape {volume.shape}, expected (X, Y, Z) or (C, X, Y, Z)")
    least, most = radius
    if not 1 <= least <= most:
        raise ValueError(f"add_lesion: radius is {radius}, expected two numbers, 1 <= least <= largest")
    channels = volume[None] if volume.ndim == 3 else volume
    brain = (channels != 0).all(0)
    centre = _centre(brain, least, rng)
    radii = rng.uniform(least, most, 3)
    box = tuple(
        slice(max(0, int(middle - most - _BORDER)), min(size, int(middle + most + _BORDER) + 1))
        for middle, size in zip(centre, brain.shape, strict=True)
    )
    inside = brain[box]
    grid = np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij", sparse=True)
    squares = [((axis - middle) / r) ** 2 for axis, middle, r in zip(grid, centre, radii, strict=True)]
    depth = radii.min() * (1 - np.sqrt(squares[0] + squares[1] + squares[2]))  # about voxels below the surface
    depth = depth + 0.15 * radii.min() * _lumps(rng, inside.shape, radii.min() / 3)
    share = np.where(inside, 1 / (1 + np.exp(-np.clip(depth / softness, -30, 30))), 0)
    texture = _lumps(rng, inside.shape, 1.5)
    result = channels.astype(np.float32, copy=True)
    for channel in result:
        mean, deviation = channel[brain].mean(), channel[brain].std()
        own = mean + deviation * (rng.uniform(*contrast) + 0.2 * texture)
        channel[box] += (share * (own - channel[box])).astype(np.float32)
    mask = np.zeros(brain.shape, bool)
    mask[box] = share >= 0.5
    return (result[0] if volume.ndim == 3 else result), mask


def with_lesions(
    volume: NDArray[np.float32], rng: np.random.Generator, count: int, **options: Any
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """:func:`add_lesion` ``count`` times, with its ``options``; the mask is of all of them."""
    mask = np.zeros(volume.shape[-3:], bool)
    for _ in range(count):
        volume, added = add_lesion(volume, rng, **options)
        mask |= added
    return volume, mask


def _centre(brain: NDArray[np.bool_], least: float, rng: np.random.Generator) -> list[int]:
    """A voxel with nothing but brain within the least radius."""
    reach = int(least)
    steps = np.arange(-reach, reach + 1) ** 2
    ball = steps[:, None, None] + steps[:, None] + steps <= least**2
    voxels = np.flatnonzero(brain)
    for _ in range(_TRIES if len(voxels) else 0):
        place = [int(index) for index in np.unravel_index(voxels[rng.integers(len(voxels))], brain.shape)]
        around = brain[tuple(slice(max(0, index - reach), index + reach + 1) for index in place)]
        if around.shape == ball.shape and around[ball].all():
            return place
    raise ValueError(
        f"add_lesion: radius is {least:g} at least, but in {_TRIES} tries no ball of it lay inside the brain "
        f"({len(voxels)} voxels that are not zero): expected a larger brain or a smaller radius"
    )


def _lumps(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.float64]:
    """Smooth noise of unit deviation."""
    noise: NDArray[np.float64] = gaussian_filter(rng.standard_normal(shape), sigma)
    return noise / max(float(noise.std()), 1e-12)
