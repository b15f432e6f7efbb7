"""Patients of TCGA-LGG as slices in TIFF files, with masks of the tumour: Kaggle's ``lgg-mri-segmentation``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastseg.io.files import check_folder, folders_with, listed
from fastseg.io.images import ImageError, load_image

_NAME = re.compile(r"(.+?)_(\d+)(_mask)?\.tiff?", re.IGNORECASE)


@dataclass(frozen=True)
class LggCase:
    """What :func:`load_lgg` reads.

    Attributes:
        name: what the names of the files begin with.
        images: (S, H, W, 3), uint8, in the order of the slices' numbers; the channels are T1 before contrast, FLAIR and
            T1 after contrast. Where a sequence was not taken, the data set has FLAIR in its place.
        masks: (S, H, W), bool, where the tumour is; None without files of masks.
        files: those of ``images``, in their order.
    """

    name: str
    images: NDArray[np.uint8]
    masks: NDArray[np.bool_] | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class LggMasks:
    """What :func:`load_lgg_masks` reads.

    Attributes:
        masks: (S, H, W), bool, where the tumour is.
        numbers: of the slices, in their order.
    """

    masks: NDArray[np.bool_]
    numbers: tuple[int, ...]


def find_lgg(folder: str | os.PathLike[str]) -> list[Path]:
    """Folders that hold slices: ``folder`` itself and all in it, sorted.

    Raises:
        ImageError: no such folder, or no patient in it.
    """
    return folders_with(Path(folder), _is_slice, "slices: files such as NAME_1.tif", ImageError)


def load_lgg(folder: str | os.PathLike[str]) -> LggCase:
    """Read a patient: ``NAME_1.tif``, ``NAME_2.tif``, ... and perhaps ``NAME_1_mask.tif``, ... for each of them.

    Raises:
        ImageError: no such folder, no slices, slices of two patients, two files for one slice, masks for some slices
            only, masks without a slice, sizes that differ, no three channels of 8 bits, or values of a mask other than
            0 and one other.
    """
    folder = Path(folder)
    check_folder(folder, ImageError)
    slices, masks = _numbered(folder, mask=False), _numbered(folder, mask=True)
    if not slices:
        raise ImageError(f"{folder}: there is no slice, expected files such as NAME_1.tif")
    name = _patient(folder, slices.values())
    alone = [path.name for number, path in masks.items() if number not in slices]
    if alone:
        raise ImageError(f"{folder}: there is no slice for {listed(alone)}")
    without = [path.name for number, path in slices.items() if number not in masks]
    if masks and without:
        raise ImageError(f"{folder}: there is no mask for {listed(without)}, expected all masks or none")
    files = tuple(slices[number] for number in sorted(slices))
    images = [_slice(path) for path in files]
    for path, image in zip(files, images, strict=True):
        _check_size(path, image, files[0], images[0])
    found = [_mask(masks[number]) for number in sorted(masks)]
    for number, mask in zip(sorted(masks), found, strict=True):
        _check_size(masks[number], mask, files[0], images[0])
    return LggCase(name, np.stack(images), np.stack(found) if masks else None, files)


def _patient(folder: Path, files: Iterable[Path]) -> str:
    names = sorted({match[1] for path in files if (match := _NAME.fullmatch(path.name))})
    if len(names) > 1:
        raise ImageError(f"{folder}: slices of {listed(names)}, expected one patient a folder")
    return names[0]


def has_lgg_masks(folder: str | os.PathLike[str]) -> bool:
    """Whether it is a folder with files such as ``NAME_1_mask.tif``."""
    folder = Path(folder)
    return folder.is_dir() and any(_is_mask(path.name) for path in folder.iterdir())


def load_lgg_masks(folder: str | os.PathLike[str]) -> LggMasks:
    """Read the masks of a patient, with or without the slices beside them, as ``fastseg segment`` writes them.

    Raises:
        ImageError: no such folder, no masks, masks of two patients, two files for one slice, sizes that differ, or
            values other than 0 and one other.
    """
    folder = Path(folder)
    check_folder(folder, ImageError)
    files = _numbered(folder, mask=True)
    if not files:
        raise ImageError(f"{folder}: there is no mask, expected files such as NAME_1_mask.tif")
    _patient(folder, files.values())
    numbers = sorted(files)
    first = files[numbers[0]]
    masks = [_mask(files[number]) for number in numbers]
    for number, mask in zip(numbers, masks, strict=True):
        _check_size(files[number], mask, first, masks[0])
    return LggMasks(np.stack(masks), tuple(numbers))


def _is_mask(name: str) -> bool:
    match = _NAME.fullmatch(name)
    return match is not None and match[3] is not None and not name.startswith(".")


def _is_slice(name: str) -> bool:
    match = _NAME.fullmatch(name)
    return match is not None and match[3] is None


def _numbered(folder: Path, *, mask: bool) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or path.name.startswith(".") or (match[3] is not None) != mask:
            continue
        number = int(match[2])
        if number in found:
            raise ImageError(
                f"{folder}: {found[number].name} and {path.name} have one number, expected one file a slice"
            )
        found[number] = path
    return found


def _slice(path: Path) -> NDArray[np.uint8]:
    image = load_image(path)
    if image.ndim != 3 or image.dtype != np.uint8:
        raise ImageError(f"{path}: {image.dtype} of shape {image.shape}, expected uint8 of (H, W, 3)")
    return image.astype(np.uint8, copy=False)


def _mask(path: Path) -> NDArray[np.bool_]:
    mask = load_image(path)
    if mask.ndim != 2:
        raise ImageError(f"{path}: shape {mask.shape}, expected a mask of (H, W)")
    values = np.unique(mask[mask != 0])
    if values.size > 1:
        raise ImageError(f"{path}: values {listed(f'{value:g}' for value in values)}, expected a mask of 0 and 255")
    return mask != 0


def _check_size(path: Path, image: NDArray[np.generic], like_path: Path, like: NDArray[np.generic]) -> None:
    if image.shape[:2] != like.shape[:2]:
        sizes = (f"{height} x {width}" for height, width in (image.shape[:2], like.shape[:2]))
        raise ImageError(f"{path}: {next(sizes)}, expected the size of {like_path.name}, {next(sizes)}")
