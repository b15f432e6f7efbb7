"""Finds the patients in a folder: of BraTS, of TCGA-LGG, or pictures with masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fastseg.io import LggCase, find_brats, find_lgg, load_brats, load_image, load_lgg, to_ras
from fastseg.io.files import found_by
from fastseg.segmentation.scan import prepared
from fastseg.training.cases import Case, Source, in_memory
from fastseg.training.errors import TrainingError

Layout = Literal["brats", "lgg", "images"]
ImageSize = tuple[int, int] | None

_PICTURES = (".png", ".tif", ".tiff")
_SLICE = re.compile(r"(.+?)[_-]\d+")
_FEWEST_PATIENTS = 3
# From 2023 on: the patient, and which of his scans this is.
_SCAN_OF_PATIENT = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+")

Pixel = TypeVar("Pixel", bound=np.generic)


def find_sources(folder: Path, *, image_size: ImageSize = None, classes: int = 1) -> tuple[Layout, list[Source]]:
    """Every patient in ``folder``, and how the folder is laid out.

    The layouts: ``images/`` and ``masks/`` with files of the same names, PNG or TIFF; folders of TCGA-LGG
    (``NAME_1.tif``, ``NAME_1_mask.tif``, ...); folders of BraTS (``NAME_t1.nii.gz``, ..., ``NAME_seg.nii.gz``).

    Args:
        image_size: (height, width) to which pictures and slices of TCGA-LGG are scaled; None: they keep their size.
        classes: of the foreground, in masks of pictures: 1: whatever is not 0; more: values 0 to ``classes``.

    Raises:
        TrainingError: no such folder, none of the layouts, an image without a mask or a mask without an image, or two
            patients of one name.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder}: {'this is a file' if folder.exists() else 'there is no such folder'}")
    if (folder / "images").is_dir() or (folder / "masks").is_dir():
        layout: Layout = "images"
        sources = _pictures(folder, image_size, classes)
    elif found := found_by(find_lgg, folder):
        layout, key = "lgg", str(image_size)
        sources = [Source(_name(p), _files(p), partial(_lgg, p, image_size), key) for p in found]
    elif found := found_by(find_brats, folder):
        layout = "brats"
        sources = [Source(_name(p), _files(p), partial(_brats, p), group=_brats_patient(_name(p))) for p in found]
    else:
        raise TrainingError(
            f"{folder}: no patient in it, expected images/ and masks/ with files of the same names, folders of "
            "TCGA-LGG (NAME_1.tif, NAME_1_mask.tif, ...) or of BraTS (NAME_t1.nii.gz, ..., NAME_seg.nii.gz)"
        )
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise TrainingError(f"{folder}: two folders of the name {twice}, expected one a patient")
    return layout, sources


def _name(folder: Path) -> str:
    return folder.resolve().name


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.is_file()))


def _brats_patient(name: str) -> str:
    """Whom a case is of, where others may be of the same; else empty."""
    match = _SCAN_OF_PATIENT.fullmatch(name)
    return match[1] if match else ""


def _brats(folder: Path) -> Case:
    case = load_brats(folder)
    if case.labels is None:
        raise TrainingError(f"{folder}: there is no file of labels (*_seg), so there is nothing to learn")
    labels = to_ras(case.labels, case.volume.affine).astype(np.uint8, copy=False)
    return in_memory(_name(folder), prepared(case).image.numpy(), labels)


def _lgg(folder: Path, image_size: ImageSize) -> Case:
    case = load_lgg(folder)
    if case.masks is None:
        raise TrainingError(f"{folder}: there are no masks (NAME_1_mask.tif), so there is nothing to learn")
    images, masks = _scaled(case.images, case.masks.astype(np.uint8), image_size)
    image = prepared(LggCase(case.name, images, None, case.files)).image.numpy()
    return in_memory(_name(folder), image, np.moveaxis(masks, 0, -1))


def _pictures(folder: Path, image_size: ImageSize, classes: int) -> list[Source]:
    images, masks = (_by_name(folder / part) for part in ("images", "masks"))
    for name in sorted(set(images) ^ set(masks)):
        part, other = ("images", "masks") if name in images else ("masks", "images")
        raise TrainingError(f"{(images | masks)[name]}: there is no {other}/{name}.png or .tif, but {part} has it")
    if not images:
        raise TrainingError(f"{folder / 'images'}: there is no picture in it, expected .png or .tif files")
    pairs = {name: (images[name], masks[name]) for name in sorted(images)}
    key = f"{image_size} {classes}"
    return [
        Source(
            patient,
            tuple(path for name in members for path in pairs[name]),
            partial(_picture_case, patient, [pairs[name] for name in members], image_size, classes),
            key,
        )
        for patient, members in _patients(list(pairs)).items()
    ]


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise TrainingError(f"{folder}: there is no such folder, expected images/ and masks/ beside each other")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES and path.name[0] != ".")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def _patients(names: Sequence[str]) -> dict[str, list[str]]:
    """Pictures of one patient: of one sub-folder, or of names that differ in a last number; else each on its own."""

    def patient(name: str) -> str:
        if "/" in name:
            return name.rsplit("/", 1)[0]
        match = _SLICE.fullmatch(name)
        return match[1] if match else name

    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(patient(name), []).append(name)
    # Sub-folders are certain; numbers may be those of patients.
    fewest = 2 if any("/" in name for name in names) else _FEWEST_PATIENTS
    return groups if len(groups) >= fewest else {name: [name] for name in names}


def _picture_case(name: str, pairs: Sequence[tuple[Path, Path]], image_size: ImageSize, classes: int) -> Case:
    images: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.uint8]] = []
    for image_path, mask_path in pairs:
        image = load_image(image_path)
        mask = _mask(mask_path, classes)
        if mask.shape != image.shape[:2]:
            raise TrainingError(f"{mask_path}: {_size(mask)}, expected the size of its image, {_size(image)}")
        image = image[..., None] if image.ndim == 2 else image
        scaled, labels = _scaled(image[None].astype(np.float32), mask[None], image_size)
        if images and scaled[0].shape != images[0].shape:
            raise TrainingError(
                f"{image_path}: {_size(scaled[0])}, expected the size of {pairs[0][0].name}, {_size(images[0])}: "
                "--image-size scales all pictures to one size"
            )
        images.append(scaled[0])
        masks.append(labels[0])
    # (H, W, S, C) of each to (C, H, W, S).
    whole = prepared(np.moveaxis(np.stack(images, 2), -1, 0))
    return in_memory(name, whole.image.numpy(), np.stack(masks, -1))


def _mask(path: Path, classes: int) -> NDArray[np.uint8]:
    mask = load_image(path)
    if mask.ndim == 3 and (mask == mask[..., :1]).all():
        mask = mask[..., 0]
    if mask.ndim != 2:
        raise TrainingError(f"{path}: a picture in colours, expected a mask of (H, W)")
    if classes == 1:
        return (mask != 0).astype(np.uint8)
    if mask.max() > classes:
        raise TrainingError(f"{path}: values up to {mask.max()}, expected classes from 0 to {classes}")
    return mask.astype(np.uint8)


def _scaled(
    images: NDArray[Pixel], masks: NDArray[np.uint8], image_size: ImageSize
) -> tuple[NDArray[Pixel], NDArray[np.uint8]]:
    """(S, H, W, C) and (S, H, W) scaled to a size, without aliasing; classes by their nearest pixel."""
    if image_size is None or tuple(images.shape[1:3]) == tuple(image_size):
        return images, masks
    pixels = torch.from_numpy(np.moveaxis(images.astype(np.float32), -1, 1))
    fine = F.interpolate(pixels, image_size, mode="bilinear", antialias=True, align_corners=False)
    labels = F.interpolate(torch.from_numpy(masks[:, None]), image_size, mode="nearest-exact")
    result = np.moveaxis(fine.numpy(), 1, -1)
    if images.dtype.kind in "ui":
        result = result.round()
    return result.astype(images.dtype), labels[:, 0].numpy()


def _size(image: NDArray[np.generic]) -> str:
    colours = f" in {image.shape[2]} channels" if image.ndim == 3 and image.shape[2] > 1 else ""
    return f"{image.shape[0]} x {image.shape[1]}{colours}"
