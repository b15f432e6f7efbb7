"""Patients of TCGA-LGG as slices in TIFF files, with masks of the tumour: Kaggle's ``lgg-mri-segmentation``."""

from __future__ import annotations

import os
import re
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
    names = sorted({match[1] for path in slices.values() if (match := _NAME.fullmatch(path.name))})
    if len(names) > 1:
        raise ImageError(f"{folder}: slices of {listed(names)}, expected one patient a folder")
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
    return LggCase(
        names[0],
        np.stack(images),
        np.stack([_mask(masks[number], files[0], images[0]) for number in sorted(masks)]) if masks else None,
        files,
    )


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


def _mask(path: Path, like_path: Path, like: NDArray[np.uint8]) -> NDArray[np.bool_]:
    mask = load_image(path)
    if mask.ndim != 2:
        raise ImageError(f"{path}: shape {mask.shape}, expected a mask of (H, W)")
    _check_size(path, mask, like_path, like)
    values = np.unique(mask[mask != 0])
    if values.size > 1:
        raise ImageError(f"{path}: values {listed(f'{value:g}' for value in values)}, expected a mask of 0 and 255")
    return mask != 0


def _check_size(path: Path, image: NDArray[np.generic], like_path: Path, like: NDArray[np.generic]) -> None:
    if image.shape[:2] != like.shape[:2]:
        sizes = (f"{height} x {width}" for height, width in (image.shape[:2], like.shape[:2]))
        raise ImageError(f"{path}: {next(sizes)}, expected the size of {like_path.name}, {next(sizes)}")
