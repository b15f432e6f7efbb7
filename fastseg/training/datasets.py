"""What all data sets share: images and labels become tensors, with augmentation that follows from a seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fastseg.models import SegmentationNetwork
from fastseg.models.network import Output
from fastseg.segmentation.labels import LABELS, REGIONS, classes_of, regions_of
from fastseg.training.errors import TrainingError

Augment = Callable[
    [NDArray[np.float32], NDArray[np.uint8], np.random.Generator], tuple[NDArray[np.float32], NDArray[np.uint8]]
]


@dataclass(frozen=True)
class Target:
    """What a network is to give for labels.

    Attributes:
        output: classes (``"softmax"``) or regions (``"sigmoid"``).
        names: of the channels that are scored: the foreground.
        brats: labels are those of BraTS, otherwise class indices.
        background: behind the regions comes one more, where none of them is.
    """

    output: Output
    names: tuple[str, ...]
    brats: bool = False
    background: bool = False

    @classmethod
    def of(cls, network: SegmentationNetwork, *, brats: bool) -> Target:
        """What fits the channels of ``network``.

        Raises:
            TrainingError: BraTS has no such number of classes or regions.
        """
        foreground = network.out_channels - (network.output == "softmax")
        if not brats:
            if foreground < 1:
                raise TrainingError(
                    f"out_channels is {network.out_channels}, expected at least 2 with {network.output}"
                )
            names = ("lesion",) if foreground == 1 else tuple(f"class {index + 1}" for index in range(foreground))
            return cls(network.output, names)
        if foreground == 1:
            return cls(network.output, ("WT",), brats=True)
        if foreground == 4 and network.output == "sigmoid":
            return cls(network.output, tuple(REGIONS), brats=True, background=True)
        if foreground != 3:
            one, three = (1, 3) if network.output == "sigmoid" else (2, 4)
            raise TrainingError(
                f"out_channels is {network.out_channels}, expected {one} (whole tumour) or {three} "
                f"({', '.join(REGIONS if network.output == 'sigmoid' else LABELS.values())}) for BraTS with "
                f"{network.output}"
            )
        return cls(network.output, tuple(REGIONS if network.output == "sigmoid" else LABELS.values()), brats=True)

    def __call__(self, labels: NDArray[np.uint8]) -> Tensor:
        """Labels (...) to class indices (...), int64, or regions (K, ...), bool."""
        if len(self.names) == 1:
            found = labels > 0
            return torch.from_numpy(found.astype(np.int64) if self.output == "softmax" else found[None])
        if self.output == "softmax":
            return torch.from_numpy((classes_of(labels) if self.brats else labels).astype(np.int64))
        if self.brats:
            regions = regions_of(labels)
            return torch.from_numpy(np.concatenate([regions, labels[None] == 0]) if self.background else regions)
        return torch.from_numpy(np.stack([labels == index + 1 for index in range(len(self.names))]))


class SegmentationData(Dataset[tuple[Tensor, Tensor]], ABC):
    """Images with their targets.

    Random numbers of an image follow from the seed, the epoch and the image's index alone: whatever the number of
    processes and workers, and whether the run was interrupted, an image gets the same augmentation.

    Args:
        target: turns labels into what the loss takes.
        augment: applied to image and labels; None: nothing is random.
        seed: of the random numbers.
    """

    def __init__(self, target: Target, augment: Augment | None = None, seed: int = 0) -> None:
        self.target = target
        self.augment = augment
        self.seed = seed
        # Workers that live on see the change, because the memory is theirs, too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, number: int) -> None:
        """The epoch whose random numbers are used from now on."""
        self._epoch[0] = number

    @property
    def epoch(self) -> int:
        """As :meth:`set_epoch` was told, 0 before."""
        return int(self._epoch[0])

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Image (C, ...) and labels (...)."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        image, labels = self.read(index, rng)
        if self.augment is not None:
            image, labels = self.augment(image, labels, rng)
        return torch.from_numpy(np.ascontiguousarray(image)), self.target(labels)


class Limited(Dataset[tuple[Tensor, Tensor]]):
    """At most ``count`` images of another data set, evenly spread over it."""

    def __init__(self, data: SegmentationData, count: int) -> None:
        self._data = data
        self._indices = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int).tolist()

    def set_epoch(self, number: int) -> None:
        """Of the other data set."""
        self._data.set_epoch(number)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._data[self._indices[index]]
