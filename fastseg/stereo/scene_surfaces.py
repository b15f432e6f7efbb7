"""What a rendered scene is made of: surfaces that rays hit, and paints that are functions of the point in space.

Points, directions and colours are (3, N); x runs to the right, y down, z away from the cameras, all in metres. A paint
knows nothing of cameras, so both views of a pair see one and the same texture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Paint = Callable[[Array], Array]
Vector = tuple[float, float, float]

#: Hits nearer than this share of the direction's length are the point that the ray starts from.
NEAR = 1e-4


#: Cast at a time: what they need stays in a core's cache.
RAYS = 1 << 14


class Surface(Protocol):
    """``hit`` is in lengths of the direction, infinite where the ray misses; ``normal`` has length 1."""

    @property
    def paint(self) -> Paint: ...

    def hit(self, origin: Array, direction: Array) -> Array: ...

    def normal(self, points: Array) -> Array: ...


@dataclass(frozen=True)
class Plane:
    point: Vector
    towards: Vector  # the normal, of any length
    paint: Paint

    def hit(self, origin: Array, direction: Array) -> Array:
        normal = _column(self.towards, direction)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = _dot(normal, _column(self.point, direction) - origin) / _dot(normal, direction)
        return _in_front(distance)

    def normal(self, points: Array) -> Array:
        normal = _column(self.towards, points)
        return np.broadcast_to(normal / np.sqrt(_dot(normal, normal)), points.shape)


@dataclass(frozen=True)
class Sphere:
    centre: Vector
    radius: float
    paint: Paint

    def hit(self, origin: Array, direction: Array) -> Array:
        offset = origin - _column(self.centre, direction)
        return _first_root(
            _dot(direction, direction), _dot(offset, direction), _dot(offset, offset) - self.radius * self.radius
        )

    def normal(self, points: Array) -> Array:
        outwards = points - _column(self.centre, points)
        return outwards / np.sqrt(_dot(outwards, outwards))


@dataclass(frozen=True)
class Pole:
    """A vertical cylinder without ends."""

    centre: tuple[float, float]  # x, z
    radius: float
    paint: Paint

    def hit(self, origin: Array, direction: Array) -> Array:
        offset = origin[::2] - _column(self.centre, direction)
        across = direction[::2]
        return _first_root(_dot(across, across), _dot(offset, across), _dot(offset, offset) - self.radius * self.radius)

    def normal(self, points: Array) -> Array:
        x, z = points[::2] - _column(self.centre, points)
        length = np.sqrt(x * x + z * z)
        return np.stack([x / length, np.zeros_like(x), z / length])


@dataclass(frozen=True)
class Box:
    """Turned about the vertical axis by ``turn`` radians."""

    centre: Vector
    half: Vector
    turn: float
    paint: Paint

    def hit(self, origin: Array, direction: Array) -> Array:
        start, step = self._turned(origin - _column(self.centre, direction)), self._turned(direction)
        half = _column(self.half, direction)
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = np.stack([(-half - start) / step, (half - start) / step])
        # Inside between the last plane that it enters through and the first one that it leaves through.
        enter, leave = sides.min(axis=0).max(axis=0), sides.max(axis=0).min(axis=0)
        return _in_front(np.where(enter <= leave, enter, np.inf))

    def normal(self, points: Array) -> Array:
        inside = self._turned(points - _column(self.centre, points))
        share = inside / _column(self.half, points)
        face = np.abs(share).argmax(axis=0)
        normal = np.zeros_like(points)
        normal[face, np.arange(points.shape[1])] = np.sign(np.take_along_axis(share, face[None], 0)[0])
        return self._turned(normal, back=True)

    def _turned(self, vectors: Array, *, back: bool = False) -> Array:
        cosine, sine = float(np.cos(self.turn)), float(np.sin(self.turn)) * (-1 if back else 1)
        x, y, z = vectors
        return np.stack(np.broadcast_arrays(cosine * x + sine * z, y, cosine * z - sine * x))


def nearest(surfaces: Sequence[Surface], origin: Array, direction: Array) -> tuple[Array, NDArray[np.int8]]:
    """For each ray how far the first surface is, in lengths of the direction, and which one it is."""
    rays = direction.shape[1]
    origin = np.broadcast_to(origin, direction.shape)
    distance = np.full(rays, np.inf, direction.dtype)
    index = np.full(rays, -1, np.int8)
    for start in range(0, rays, RAYS):
        part = slice(start, start + RAYS)
        for number, surface in enumerate(surfaces):
            hit = surface.hit(origin[:, part], direction[:, part])
            closer = hit < distance[part]
            np.copyto(distance[part], hit, where=closer)
            index[part][closer] = number
    return distance, index


def _column(values: Sequence[float], like: Array) -> Array:
    return np.asarray(values, like.dtype)[:, None]


def _dot(a: Array, b: Array) -> Array:
    total: Array = (a * b).sum(axis=0)
    return total


def _in_front(distance: Array) -> Array:
    return np.where(distance > NEAR, distance, np.inf)  # also turns NaN into a miss


def _first_root(a: Array, b: Array, c: Array) -> Array:
    """The smaller root of a t^2 + 2 b t + c where it is in front: rays start outside of what is round."""
    under = b * b - a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        return _in_front((-b - np.sqrt(under)) / a)
