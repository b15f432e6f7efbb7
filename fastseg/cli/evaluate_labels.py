"""Labels that ``fastseg evaluate segmentation`` scores: a NIfTI file, or a folder with a mask for each slice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastseg.cli.errors import CommandError
from fastseg.io import LabelVolume, Volume, load_labels, load_lgg_masks
from fastseg.io.files import listed
from fastseg.io.grid import check_same_grid


@dataclass(frozen=True)
class Labels:
    """What was read.

    Attributes:
        slices: numbers of the masks; None: a volume.
    """

    path: Path
    volume: LabelVolume
    slices: tuple[int, ...] | None


def read(path: Path) -> Labels:
    """Masks become rows, columns and slices of 1 mm, as ``fastseg segment`` writes a volume of slices.

    Raises:
        FileError: they cannot be read.
    """
    if not path.is_dir():
        return Labels(path, load_labels(path), None)
    found = load_lgg_masks(path)
    masks = np.ascontiguousarray(np.moveaxis(found.masks, 0, -1), np.uint8)
    grid = Volume.from_array(masks[None].astype(np.float32), np.eye(4))
    return Labels(path, LabelVolume(masks, grid.affine, grid.header), found.numbers)


def check_same_voxels(labels: Labels, like: Labels) -> None:
    """Refuses labels of another grid, or of slices with other numbers.

    Raises:
        CommandError, FileError: says what differs.
    """
    if labels.slices is not None and like.slices is not None and labels.slices != like.slices:
        differ = {"no mask": set(like.slices) - set(labels.slices), "a mask": set(labels.slices) - set(like.slices)}
        said = " and ".join(f"{what} of slices {listed(sorted(which))}" for what, which in differ.items() if which)
        raise CommandError(f"{labels.path}: there is {said}, expected the slices of {like.path}")
    check_same_grid(labels.path, labels.volume, like.path, like.volume)
