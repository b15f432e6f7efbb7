"""Pieces of volumes for 3D networks: random patches to train on, tiles that cover each volume once to validate on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fastseg.training.cases import Case
from fastseg.training.datasets import Augment, SegmentationData, Target
from fastseg.training.slices import check_channels, fitted

Size3 = tuple[int, int, int]


class Patches(SegmentationData):
    """Random patches, every other one around a voxel of the foreground where there is one; in turn from epoch to epoch.

    Args:
        cases: with the same number of channels.
        target, augment, seed: as in :class:`SegmentationData`.
        size: (X, Y, Z) of a patch; where the volume is smaller it is padded with zeros.
        per_case: patches of each case in an epoch.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        target: Target,
        size: Size3,
        augment: Augment | None = None,
        seed: int = 0,
        per_case: int = 4,
    ) -> None:
        super().__init__(target, augment, seed)
        check_channels(cases)
        self.size = size
        self._cases = list(cases)
        self._per_case = per_case

    def __len__(self) -> int:
        return len(self._cases) * self._per_case

    def read(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        if not 0 <= index < len(self):  # what ends a plain for loop over the data set
            raise IndexError(index)
        image, labels = self._cases[index // self._per_case].open()
        z, _, x, y = image.shape
        sizes = (x, y, z)
        start = [int(rng.integers(max(1, size - want + 1))) for size, want in zip(sizes, self.size, strict=True)]
        if (index + self.epoch) % 2 and len(found := np.flatnonzero(labels)):
            k, i, j = np.unravel_index(found[rng.integers(len(found))], labels.shape)
            for axis, voxel in enumerate((i, j, k)):
                most = max(0, sizes[axis] - self.size[axis])
                start[axis] = int(np.clip(voxel - rng.integers(self.size[axis]), 0, most))
        return cut(image, labels, start, self.size)


class Tiles(SegmentationData):
    """Tiles side by side that cover each case once: a voxel is scored once.

    Args:
        cases: with the same number of channels.
        target: as in :class:`SegmentationData`.
        size: (X, Y, Z) of a tile; those at the end are padded with zeros.
    """

    def __init__(self, cases: Sequence[Case], target: Target, size: Size3) -> None:
        super().__init__(target)
        check_channels(cases)
        self.size = size
        self._tiles = [
            (case, start)
            for case in cases
            for start in product(
                range(0, case.shape[2], size[0]), range(0, case.shape[3], size[1]), range(0, case.shape[0], size[2])
            )
        ]

    def __len__(self) -> int:
        return len(self._tiles)

    def read(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        case, start = self._tiles[index]
        return cut(*case.open(), start, self.size)


def cut(
    image: NDArray[np.floating], labels: NDArray[np.uint8], start: Sequence[int], size: Size3
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(C, X, Y, Z) and (X, Y, Z) from ``start`` on, of slices (Z, C, X, Y) and (Z, X, Y), padded to ``size``."""
    x, y, z = (slice(first, first + length) for first, length in zip(start, size, strict=True))
    part = np.moveaxis(image[z, :, x, y].astype(np.float32), 0, -1)
    return fitted(part, size), fitted(np.moveaxis(labels[z, x, y], 0, -1), size)
