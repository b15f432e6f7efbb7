"""Slices of patients for 2D networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fastseg.training.cases import Case
from fastseg.training.datasets import Augment, SegmentationData, Target
from fastseg.training.errors import TrainingError

Scalar = TypeVar("Scalar", bound=np.generic)


class Slices(SegmentationData):
    """Every slice of every case, one after the other, with zeros on both sides up to ``size``, or cut to it.

    Args:
        cases: with the same number of channels.
        target, augment, seed: as in :class:`SegmentationData`.
        size: (X, Y) of what comes out.

    Raises:
        TrainingError: no case, or channels that differ.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        target: Target,
        size: tuple[int, int],
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(target, augment, seed)
        check_channels(cases)
        self.size = size
        self._cases = list(cases)
        self._first = np.cumsum([0, *(case.shape[0] for case in cases)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        if not 0 <= index < len(self):  # what ends a plain for loop over the data set
            raise IndexError(index)
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        images, labels = self._cases[number].open()
        place = index - int(self._first[number])
        image = fitted(images[place].astype(np.float32), self.size)
        return image, fitted(labels[place], self.size)


def size_for(cases: Sequence[Case], divisor: int, dims: int = 2) -> tuple[int, ...]:
    """The least size that takes every case whole and is a multiple of ``divisor``: (X, Y), or (X, Y, Z)."""
    most = [max(sizes) for sizes in zip(*((*case.shape[2:], case.shape[0]) for case in cases), strict=True)]
    return tuple(-(-size // divisor) * divisor for size in most[:dims])


def fitted(array: NDArray[Scalar], size: Sequence[int]) -> NDArray[Scalar]:
    """The last axes padded with zeros on both sides, or cut on both, to ``size``."""
    result = np.zeros((*array.shape[: -len(size)], *size), array.dtype)
    rank = array.ndim - len(size)
    source, place = [slice(None)] * rank, [slice(None)] * rank
    for have, want in zip(array.shape[-len(size) :], size, strict=True):
        common = min(have, want)
        source.append(slice((have - common) // 2, (have - common) // 2 + common))
        place.append(slice((want - common) // 2, (want - common) // 2 + common))
    result[tuple(place)] = array[tuple(source)]
    return result


def check_channels(cases: Sequence[Case]) -> None:
    """Refuse no cases, and cases that no one network takes."""
    if not cases:
        raise TrainingError("no case, expected at least one")
    for case in cases:
        if case.shape[1] != cases[0].shape[1]:
            raise TrainingError(
                f"{case.name}: {case.shape[1]} channels, expected those of {cases[0].name}, {cases[0].shape[1]}"
            )
