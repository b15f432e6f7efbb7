"""Paints of the rendered scene: solid textures, with no detail that a pixel could not show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastseg.stereo.scene_surfaces import Array, Paint

Colour = tuple[float, float, float]


class Waves:
    """Smooth solid noise of about unit deviation: a sum of cosines, none shorter than ``finest`` metres."""

    def __init__(self, rng: np.random.Generator, finest: float, *, octaves: float = 3.0, count: int = 20) -> None:
        lengths = finest * 2 ** np.linspace(0, octaves, count)
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        strength = lengths**0.35  # coarse waves a little stronger than fine ones
        self._amplitude = strength / np.sqrt(np.square(strength).sum() / 2)
        self._wave = 2 * np.pi * directions / lengths[:, None]
        self._phase = rng.uniform(0, 2 * np.pi, count)

    def __call__(self, points: Array) -> Array:
        total = np.zeros_like(points[0])
        # One wave after another, not by a matrix product: BLAS may round in another way for another number of threads.
        for amplitude, wave, phase in zip(self._amplitude, self._wave, self._phase, strict=True):
            total += float(amplitude) * np.cos(_along(wave, points) + float(phase))
        return total


def bricks(rng: np.random.Generator, finest: float, *, size: tuple[float, float] = (0.34, 0.13)) -> Paint:
    """Courses of bricks in the x-y plane, every brick of its own shade."""
    rough, joint = Waves(rng, finest), 0.016
    shade = rng.uniform(0.55, 1.2, 251).astype(np.float32)
    warmth = rng.uniform(0, 1, 251).astype(np.float32)
    clay, ochre, mortar = (0.46, 0.19, 0.12), (0.52, 0.33, 0.19), (0.60, 0.56, 0.50)

    def paint(points: Array) -> Array:
        down = points[1] / size[1]
        course = np.floor(down)
        along = points[0] / size[0] + 0.5 * (course % 2)
        number = np.floor(along)
        which = (course * 53 + number * 17).astype(np.int64) % 251
        noise = rough(points)
        # Distance to the nearest edge of the brick, in metres.
        edge = np.minimum(size[0] * (0.5 - np.abs(along - number - 0.5)), size[1] * (0.5 - np.abs(down - course - 0.5)))
        brick = _mix(clay, ochre, warmth[which]) * shade[which]
        return _mix(mortar, brick, _step((edge - joint / 2 + 0.002 * noise) / joint)) * _grain(noise, 0.17)

    return paint


def planks(rng: np.random.Generator, finest: float, *, width: float = 0.21) -> Paint:
    """Boards along z, with the grain of wood."""
    rough, sway = Waves(rng, finest), Waves(rng, 0.25, octaves=1.5, count=8)
    shade = rng.uniform(0.7, 1.15, 251).astype(np.float32)
    offset = rng.uniform(0, 9, 251).astype(np.float32)
    light, dark = (0.66, 0.46, 0.28), (0.40, 0.23, 0.12)

    def paint(points: Array) -> Array:
        across = points[0] / width
        board = np.floor(across)
        which = (board * 29).astype(np.int64) % 251
        noise = rough(points)
        rings = np.sin(34 * points[0] + 2.4 * sway(points) + 1.5 * points[2] + offset[which])
        gap = _step((width * (0.5 - np.abs(across - board - 0.5)) - 0.004) / 0.008)
        wood = _mix(light, dark, 0.5 + 0.4 * rings)
        return wood * (shade[which] * (0.25 + 0.75 * gap)) * _grain(noise, 0.2)

    return paint


def marble(rng: np.random.Generator, finest: float, light: Colour, dark: Colour) -> Paint:
    """Veins where smooth noise bends the bands of a wave."""
    rough, bend = Waves(rng, finest), Waves(rng, 4 * finest, octaves=2, count=12)
    direction = rng.standard_normal(3)
    wave = 2 * np.pi * direction / np.linalg.norm(direction) / (9 * finest)

    def paint(points: Array) -> Array:
        veins = np.cos(_along(wave, points) + 1.2 * bend(points))
        return _mix(light, dark, _step(0.5 + 0.6 * veins)) * _grain(rough(points), 0.15)

    return paint


def terrazzo(rng: np.random.Generator, finest: float, ground: Colour, chips: Sequence[Colour]) -> Paint:
    """Chips of several colours in a ground."""
    rough = Waves(rng, finest)
    fields = [Waves(rng, 4 * finest, octaves=1.2, count=14) for _ in chips]

    def paint(points: Array) -> Array:
        colour = _mix(ground, ground, np.zeros_like(points[0]))
        for field, chip in zip(fields, chips, strict=True):
            colour = _mix(colour, chip, _step(2.2 * (field(points) - 0.55) + 0.5))
        return colour * _grain(rough(points), 0.14)

    return paint


def _along(direction: NDArray[np.float64], points: Array) -> Array:
    """The inner product of each point with one direction, in the points' own precision."""
    x, y, z = (float(component) * coordinate for component, coordinate in zip(direction, points, strict=True))
    return x + y + z


def _grain(noise: Array, strength: float) -> Array:
    return np.maximum(1 + np.float32(strength) * noise, 0.1)


def _mix(a: Colour | Array, b: Colour | Array, share: Array) -> Array:
    first, second = (np.asarray(c, share.dtype).reshape(3, -1) for c in (a, b))
    return first + (second - first) * share


def _step(x: Array) -> Array:
    """From 0 to 1 without corners while x does."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
