"""A synthetic head with a tumour in four MRI sequences, with exact labels: data for demos and tests.

The tumour has the labels of :mod:`fastseg.segmentation.labels`, nested from the inside out as 1, 4, 2. The head is made
of ellipsoids whose surfaces are moved by smooth noise; intensities follow the usual order of the tissues in each
sequence, then come partial volume, a bias field and Rician noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Field = NDArray[np.float32]

SEQUENCES = ("T1", "T1ce", "T2", "FLAIR")

_FIELD_OF_VIEW = (192.0, 224.0, 192.0)  # mm

# One intensity for each of SEQUENCES, white matter in T1 about 0.75.
_INTENSITY = {
    "scalp": (0.80, 0.70, 0.45, 0.40),
    "skull": (0.12, 0.12, 0.08, 0.08),
    "csf": (0.18, 0.18, 0.95, 0.15),
    "grey": (0.52, 0.55, 0.64, 0.58),
    "white": (0.75, 0.78, 0.46, 0.48),
    "oedema": (0.55, 0.57, 0.82, 0.92),
    "enhancing": (0.58, 1.15, 0.70, 0.78),
    "necrotic": (0.32, 0.34, 0.88, 0.50),
}


@dataclass(frozen=True)
class Phantom:
    """What :func:`brain_phantom` makes.

    Attributes:
        image: (4, X, Y, Z), float32, the sequences of ``SEQUENCES``; zero outside the head.
        labels: (X, Y, Z), uint8, 0 and the labels of BraTS.
        affine: (4, 4), voxel indices to millimetres, RAS+.
    """

    image: Field
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


def brain_phantom(shape: tuple[int, int, int] = (96, 112, 96), *, seed: int = 0) -> Phantom:
    """A head with one tumour, in RAS orientation; the same seed gives the same phantom.

    Args:
        shape: (X, Y, Z), each at least 16; the field of view is 192 x 224 x 192 mm at any shape.
        seed: draws the tumour's place and size, the folds, the contrast, the bias field and the noise.

    Raises:
        ValueError: a shape of another rank or below 16.
    """
    if len(shape) != 3 or min(shape) < 16:
        raise ValueError(f"brain_phantom: shape is {shape}, expected three sizes of at least 16")
    rng = np.random.default_rng(seed)
    spacing = [extent / size for extent, size in zip(_FIELD_OF_VIEW, shape, strict=True)]
    tissue = _anatomy(rng, shape, spacing)
    labels = _add_tumour(rng, tissue, shape, spacing)
    head = np.any(list(tissue.values()), axis=0)

    image = np.zeros((len(SEQUENCES), *shape), np.float32)
    for channel in range(len(SEQUENCES)):
        signal = np.zeros(shape, np.float32)
        for name, mask in tissue.items():
            signal[mask] = _INTENSITY[name][channel] * rng.uniform(0.96, 1.04)
        texture = 1 + 0.03 * _smooth_noise(rng, shape, spacing, wavelength=12)
        bias = np.exp(0.1 * _smooth_noise(rng, shape, spacing, wavelength=110))
        image[channel] = _rician(rng, _blur(signal) * texture * bias, sigma=0.03) * head
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-step * (size - 1) / 2 for step, size in zip(spacing, shape, strict=True)]
    return Phantom(1000 * image, labels, affine)


def _anatomy(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: list[float]
) -> dict[str, NDArray[np.bool_]]:
    """Disjoint masks of the tissues of a healthy head."""
    folds = _smooth_noise(rng, shape, spacing, wavelength=13)
    sway = _smooth_noise(rng, shape, spacing, wavelength=50)
    head = _depth(shape, spacing, radii=(78, 98, 84)) + 1.5 * sway
    brain = _depth(shape, spacing, radii=(64, 83, 69)) + 1.5 * sway
    x, _, z = _millimetres(shape, spacing)
    fissure = (np.abs(x + 1.5 * sway) < 2) & (z > 18)
    ventricles = np.zeros(shape, bool)
    deep_grey = np.zeros(shape, bool)
    for side in (-1, 1):
        ventricles |= _depth(shape, spacing, centre=(9 * side, -2, 10), radii=(6, 27, 9)) + sway > 0
        ventricles |= _depth(shape, spacing, centre=(16 * side, -26, 0), radii=(6, 12, 9)) + sway > 0
        deep_grey |= _depth(shape, spacing, centre=(13 * side, -10, -6), radii=(9, 14, 9)) > 0
        deep_grey |= _depth(shape, spacing, centre=(27 * side, 4, -2), radii=(6, 17, 10)) > 0
    in_brain = (brain + 2.5 * folds > 0) & ~fissure
    csf = (brain > -4) & (~in_brain | ventricles)
    white = in_brain & ~ventricles & (brain + 6 * folds > 11) & (np.abs(x) > 4) & ~deep_grey
    grey = in_brain & ~ventricles & ~white & ~csf
    inside = csf | white | grey
    skull = ~inside & (head > 6)
    return {"scalp": (head > 0) & ~skull & ~inside, "skull": skull, "csf": csf, "grey": grey, "white": white}


def _add_tumour(
    rng: np.random.Generator,
    tissue: dict[str, NDArray[np.bool_]],
    shape: tuple[int, int, int],
    spacing: list[float],
) -> NDArray[np.uint8]:
    """Put three nested regions into the brain, in place in ``tissue``, and return their labels."""
    side = rng.choice((-1, 1))
    centre = (side * rng.uniform(24, 34), rng.uniform(-38, 38), rng.uniform(4, 26))
    size = rng.uniform(24, 31)
    radii = tuple(float(size * factor) for factor in rng.uniform(0.85, 1.15, size=3))
    edge = _smooth_noise(rng, shape, spacing, wavelength=16)
    # Depth below the tumour's surface in mm: each region is a threshold of the same field, so the regions are nested.
    depth = _depth(shape, spacing, centre=centre, radii=radii) + 2.5 * edge
    x, _, _ = _millimetres(shape, spacing)
    parenchyma = (tissue["grey"] | tissue["white"]) & (side * x > 0)  # the falx holds a tumour to its hemisphere
    core = parenchyma | (tissue["csf"] & (side * x > 3))
    regions = {
        "oedema": parenchyma & (depth > 0),
        "enhancing": core & (depth > 0.28 * size),
        "necrotic": core & (depth > 0.5 * size),
    }
    labels = np.zeros(shape, np.uint8)
    for label, (name, mask) in zip((2, 4, 1), regions.items(), strict=True):
        labels[mask] = label
        for other in tissue.values():
            other &= ~mask
        tissue[name] = mask
    return labels


def _millimetres(shape: tuple[int, int, int], spacing: list[float]) -> list[Field]:
    """Distances from the centre of the grid along each axis, broadcastable to ``shape``."""
    sizes = zip(shape, spacing, strict=True)
    axes = [(np.arange(size, dtype=np.float32) - (size - 1) / 2) * step for size, step in sizes]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _depth(
    shape: tuple[int, int, int],
    spacing: list[float],
    *,
    radii: tuple[float, ...],
    centre: tuple[float, ...] = (0, 0, 0),
) -> Field:
    """About the depth in mm below the surface of an ellipsoid, negative outside."""
    grid = _millimetres(shape, spacing)
    squares = [((axis - middle) / radius) ** 2 for axis, middle, radius in zip(grid, centre, radii, strict=True)]
    depth: Field = min(radii) * (1 - np.sqrt(squares[0] + squares[1] + squares[2]))
    return depth


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: list[float], *, wavelength: float
) -> Field:
    """Noise of about unit deviation that varies over ``wavelength`` mm."""
    cells = [max(2, round(2 * size * step / wavelength)) for size, step in zip(shape, spacing, strict=True)]
    coarse = torch.from_numpy(rng.standard_normal((1, 1, *cells), dtype=np.float32))
    fine = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    noise: Field = _blur(fine)
    return noise / max(float(noise.std()), 1e-6)


def _blur(field: Field) -> Field:
    """Binomial smoothing over three voxels along each axis: partial volume."""
    for _ in range(3):
        padded = np.pad(field, ((1, 1), (0, 0), (0, 0)), mode="edge")
        field = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) * np.float32(0.25)
        field = field.transpose(1, 2, 0)  # the next axis to the front, and after three times the first one again
    return np.ascontiguousarray(field)


def _rician(rng: np.random.Generator, signal: Field, *, sigma: float) -> Field:
    """The magnitude of a complex signal with Gaussian noise of deviation ``sigma`` in both parts."""
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sigma)
    return np.hypot(signal + real, imaginary)
