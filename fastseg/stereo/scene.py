"""A stereo pair with an exact truth: a small scene that is rendered by casting rays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastseg.stereo import scene_paints as paints
from fastseg.stereo.calibration import RectifiedCalibration
from fastseg.stereo.geometry import depth_from_disparity
from fastseg.stereo.scene_surfaces import RAYS, Array, Box, Plane, Pole, Sphere, Surface, nearest

_NAME = "rendered_pair"
_LAMP = (-1.6, -2.1, -0.4)
_SMALLEST = 16


@dataclass(frozen=True)
class RenderedPair:
    """What :func:`rendered_pair` makes. Left pixel x shows what right pixel x - disparity shows.

    Attributes:
        left, right: (3, H, W), uint8, RGB.
        disparity: (H, W), float32, of the left image at the centres of its pixels; every pixel has one.
        disparity_right: (H, W), float32, of the right image.
        occluded: (H, W), bool: left pixels whose point is hidden from the right camera or outside of its image.
        focal_length: in pixels.
        baseline: between the cameras, in metres.
        doffs: x of the right principal point less that of the left one, in pixels.
        cx, cy: the principal point of the left image, in pixels; the centre of the first pixel is (0, 0).
    """

    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    disparity: NDArray[np.float32]
    disparity_right: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    focal_length: float
    baseline: float
    doffs: float
    cx: float
    cy: float

    @property
    def depth(self) -> NDArray[np.float32]:
        """(H, W), float32: distance from the plane of the cameras in metres, f B / (disparity + doffs)."""
        return depth_from_disparity(
            self.disparity, focal_length=self.focal_length, baseline=self.baseline, doffs=self.doffs
        )

    @property
    def calibration(self) -> RectifiedCalibration:
        """The numbers above in one, with the size of the images and a whole number above every disparity."""
        height, width = self.disparity.shape
        largest = max(self.disparity.max(), self.disparity_right.max())
        return RectifiedCalibration(
            focal_length=self.focal_length,
            baseline=self.baseline,
            doffs=self.doffs,
            cx=self.cx,
            cy=self.cy,
            width=width,
            height=height,
            max_disparity=max(1, math.floor(largest) + 2),
        )


@dataclass(frozen=True)
class _View:
    """A camera that looks along z from (x, 0, 0)."""

    height: int
    width: int
    focal_length: float
    x: float
    cx: float
    cy: float

    def rays(self, columns: NDArray[np.float64], rows: NDArray[np.float64], dtype: type[np.floating]) -> Array:
        """(3, rows * columns): directions whose z is 1, so that lengths along them are depths."""
        directions = np.ones((3, rows.size, columns.size), dtype)
        directions[0] = (columns - self.cx) / self.focal_length
        directions[1] = ((rows - self.cy) / self.focal_length)[:, None]
        return directions.reshape(3, -1)

    def origin(self, dtype: type[np.floating]) -> Array:
        return np.array([[self.x], [0], [0]], dtype)


def rendered_pair(
    height: int = 240,
    width: int = 320,
    *,
    seed: int = 0,
    baseline: float = 0.16,
    doffs: float = 0.0,
    noise: float = 0.0,
    exposure: float = 1.0,
    samples: int = 3,
) -> RenderedPair:
    """Two spheres, a box and a thin pole on a floor, before a slanted wall, seen by a rectified pair of cameras.

    The focal length is 1.1 widths. In images no taller than wide everything is at depths from 1.35 to 4.8 m, so that
    disparities lie between 1.1 * width * baseline divided by these, less ``doffs``: 11.7 to 41.7 at the default size.
    Shading does not depend on the view. The same seed gives the same pair; at another size the objects are the same,
    with textures as fine for its pixels.

    Args:
        height, width: in pixels, at least 16.
        seed: draws the textures, the places of the objects and the noise.
        baseline: in metres.
        doffs: see :class:`RenderedPair`; what calibrated cameras that do not look quite in parallel have.
        noise: deviation of Gaussian noise, in grey levels of 255, its own in each image.
        exposure: what the light of the right image is multiplied by.
        samples: rays of a pixel along each axis, averaged in linear light.

    Raises:
        ValueError: a size below 16, a baseline or an exposure that is not positive, negative noise, no samples.
    """
    _check(height, width, baseline, doffs, noise, exposure, samples)
    rng = np.random.default_rng(seed)
    focal_length = 1.1 * width
    surfaces = _scene(rng, focal_length)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    left = _View(height, width, focal_length, 0.0, cx, cy)
    right = _View(height, width, focal_length, baseline, cx + doffs, cy)
    depth, depth_right = _depth(surfaces, left), _depth(surfaces, right)
    disparity = focal_length * baseline / depth - doffs
    # The left image first: both draw their noise from one generator.
    left_image = _developed(_light(surfaces, left, samples), noise, rng)
    right_image = _developed(_light(surfaces, right, samples) * exposure, noise, rng)
    return RenderedPair(
        left=left_image,
        right=right_image,
        disparity=disparity.astype(np.float32),
        disparity_right=(focal_length * baseline / depth_right - doffs).astype(np.float32),
        occluded=_occluded(surfaces, left, right, depth, disparity),
        focal_length=focal_length,
        baseline=float(baseline),
        doffs=float(doffs),
        cx=cx,
        cy=cy,
    )


def _check(height: int, width: int, baseline: float, doffs: float, noise: float, exposure: float, samples: int) -> None:
    for name, size, least in (("height", height, _SMALLEST), ("width", width, _SMALLEST), ("samples", samples, 1)):
        if size != int(size) or size < least:
            raise ValueError(f"{_NAME}: {name} is {size}, expected a whole number, at least {least}")
    for name, number in (("baseline", baseline), ("exposure", exposure)):
        if not 0 < number < math.inf:  # also refuses NaN
            raise ValueError(f"{_NAME}: {name} is {number}, expected a finite number > 0")
    if not 0 <= noise < math.inf:
        raise ValueError(f"{_NAME}: noise is {noise}, expected a finite number >= 0")
    if not math.isfinite(doffs):
        raise ValueError(f"{_NAME}: doffs is {doffs}, expected a finite number")


def _scene(rng: np.random.Generator, focal_length: float) -> list[Surface]:
    """The wall and the floor first: they cast no shadows. Textures are finest at 5 pixels of where they are."""

    def fine(depth: float) -> float:
        return 5 * depth / focal_length

    def moved(middle: float, by: float) -> float:
        return float(middle + rng.uniform(-by, by))

    floor = 0.62  # below the cameras
    blue, sand = (0.05, 0.16, 0.36), (0.80, 0.76, 0.66)
    cream, coral, teal, mustard = (0.78, 0.70, 0.58), (0.72, 0.16, 0.09), (0.02, 0.32, 0.33), (0.80, 0.48, 0.06)
    large, small = 0.37, 0.19
    return [
        Plane((0, 0, 3.9), (moved(0.3, 0.08), 0, -1), paints.bricks(rng, fine(3.9))),
        Plane((0, floor, 2.5), (0, -1, 0), paints.planks(rng, fine(2.5))),
        Sphere((moved(-0.52, 0.05), floor - large, moved(2.55, 0.1)), large, paints.marble(rng, fine(2.3), sand, blue)),
        Sphere(
            (moved(0.16, 0.04), floor - small, moved(1.95, 0.05)),
            small,
            paints.terrazzo(rng, fine(1.9), cream, (coral, mustard, teal)),
        ),
        Box(
            (moved(0.62, 0.04), floor - 0.31, moved(2.6, 0.08)),
            (0.24, 0.31, 0.24),
            moved(0.6, 0.15),
            paints.terrazzo(rng, fine(2.4), teal, (cream, (0.01, 0.12, 0.16), mustard)),
        ),
        Pole((moved(-0.07, 0.02), 1.45), 0.016, paints.marble(rng, fine(1.45), (0.85, 0.83, 0.78), coral)),
    ]


def _depth(surfaces: Sequence[Surface], view: _View) -> NDArray[np.float64]:
    """(H, W): of the surface at the centre of each pixel."""
    rays = view.rays(np.arange(view.width, dtype=np.float64), np.arange(view.height, dtype=np.float64), np.float64)
    distance, _ = nearest(surfaces, view.origin(np.float64), rays)
    return distance.reshape(view.height, view.width).astype(np.float64)


def _occluded(
    surfaces: Sequence[Surface], view: _View, other: _View, depth: NDArray[np.float64], disparity: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Pixels whose point is not what the other camera sees along the ray to that point, or which it looks past."""
    columns, rows = np.arange(view.width, dtype=np.float64), np.arange(view.height, dtype=np.float64)
    points = view.origin(np.float64) + view.rays(columns, rows, np.float64) * depth.reshape(-1)
    origin = other.origin(np.float64)
    distance, _ = nearest(surfaces, origin, points - origin)  # the point itself is at 1
    seen_at = columns - disparity
    outside = (seen_at < 0) | (seen_at > other.width - 1)
    return (distance < 1 - 1e-7).reshape(depth.shape) | outside


def _light(surfaces: Sequence[Surface], view: _View, samples: int) -> Array:
    """(3, H, W): the linear light of each pixel, the mean over a grid of rays within it."""
    within = (np.arange(samples) + 0.5) / samples - 0.5
    columns = (np.arange(view.width)[:, None] + within).reshape(-1)
    origin = view.origin(np.float32)
    step = max(1, RAYS // (columns.size * samples))
    image = np.empty((3, view.height, view.width), np.float32)
    for top in range(0, view.height, step):
        lines = np.arange(top, min(top + step, view.height))
        rays = view.rays(columns, (lines[:, None] + within).reshape(-1), np.float32)
        light = _shaded(surfaces, origin, rays)
        image[:, lines] = light.reshape(3, lines.size, samples, view.width, samples).mean(axis=(2, 4))
    return image


def _shaded(surfaces: Sequence[Surface], origin: Array, rays: Array) -> Array:
    distance, index = nearest(surfaces, origin, rays)
    points = origin + rays * distance
    lamp = np.array(_LAMP, np.float32)[:, None]
    light = np.empty_like(points)
    for number, surface in enumerate(surfaces):
        chosen = np.flatnonzero(index == number)
        if not chosen.size:
            continue
        at = points[:, chosen]
        normal = surface.normal(at)
        to_lamp = lamp - at
        square = (to_lamp * to_lamp).sum(axis=0)
        facing = (normal * to_lamp).sum(axis=0) / np.sqrt(square)
        # Lifted off the surface, so that rounding does not make it shade itself.
        hidden, _ = nearest(surfaces[2:], at + np.float32(2e-3) * normal, to_lamp)
        direct = np.where(hidden < 1, 0, np.maximum(facing, 0)) * (21 / square)
        sky = 0.26 - 0.08 * normal[1]  # y runs down: what faces up gets more of it
        light[:, chosen] = surface.paint(at) * (sky + direct).astype(np.float32)
    return light


def _developed(light: Array, noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Linear light as bytes: bright parts are rolled off, gamma 2.2, then noise."""
    values = 255 * (light / (1 + 0.35 * light) * 1.15) ** (1 / 2.2)
    if noise:
        values = values + noise * rng.standard_normal(values.shape, dtype=np.float32)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
