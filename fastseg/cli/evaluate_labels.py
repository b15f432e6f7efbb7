"""Labels that ``fastseg evaluate segmentation`` scores: a NIfTI file, or a folder with a mask for each slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastseg.cli.errors import CommandError
from fastseg.io import LabelVolume, Volume, load_labels, load_lgg_masks
from fastseg.io.files import listed
from fastseg.io.grid import check_same_grid


def labels_of(path: Path) -> LabelVolume:
    """Masks become rows, columns and slices of 1 mm, as ``fastseg segment`` writes a volume of slices.

    Raises:
        FileError: they cannot be read.
    """
    if not path.is_dir():
        return load_labels(path)
    masks = np.moveaxis(load_lgg_masks(path).masks, 0, -1).astype(np.uint8)
    grid = Volume.from_array(masks[None].astype(np.float32), np.eye(4))
    return LabelVolume(np.ascontiguousarray(masks), grid.affine, grid.header)


def check_same_voxels(path: Path, volume: LabelVolume, like_path: Path, like: LabelVolume) -> None:
    """Refuses labels of another grid, or of slices with other numbers.

    Raises:
        CommandError, FileError: says what differs.
    """
    check_same_grid(path, volume, like_path, like)
    if path.is_dir() and like_path.is_dir():
        numbers, expected = (load_lgg_masks(folder).numbers for folder in (path, like_path))
        if numbers != expected:
            missing = listed(sorted(set(expected) - set(numbers)))
            raise CommandError(f"{path}: there is no mask of slice {missing}, expected the slices of {like_path}")
