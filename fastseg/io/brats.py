"""Cases of BraTS: a folder with four MRI sequences, and the labels where they are known."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastseg.io.files import check_folder, folders_with, listed
from fastseg.io.nifti import LabelVolume, Volume, VolumeError, load_labels, load_nifti

# How a file name ends without .nii or .nii.gz: in BraTS up to 2021, and from 2023 on.
_ENDINGS = {"T1": ("t1", "t1n"), "T1ce": ("t1ce", "t1c"), "T2": ("t2", "t2w"), "FLAIR": ("flair", "t2f")}
_SEQUENCE_OF = {ending: sequence for sequence, endings in _ENDINGS.items() for ending in endings}
_LABELS = ("seg", "segm")  # the second in one case of BraTS 2020
_NAME = re.compile(rf"(.+)[_-]({'|'.join((*_SEQUENCE_OF, *_LABELS))})\.nii(?:\.gz)?", re.IGNORECASE)
_OLD, _NEW = (0, 1, 2, 4), (0, 1, 2, 3)
# Of a voxel: what the affines of one case's files may differ by, in any corner of the volume.
_SAME_PLACE = 0.1


@dataclass(frozen=True)
class BratsCase:
    """What :func:`load_brats` reads, in the orientation of the files.

    Attributes:
        name: what the names of the sequences' files begin with, or else the folder's name.
        volume: data (4, X, Y, Z), float32, in the order T1, T1ce, T2, FLAIR.
        labels: (X, Y, Z), uint8, 0 and the labels of :mod:`fastseg.segmentation.labels`; None without a file.
        sequences: name of the sequence -> its file.
        enhancing_was_3: the file of labels follows BraTS from 2023 on, with 3 for what is 4 in ``labels``.
    """

    name: str
    volume: Volume
    labels: NDArray[np.uint8] | None
    sequences: Mapping[str, Path]
    enhancing_was_3: bool = False


def find_brats(folder: str | os.PathLike[str]) -> list[Path]:
    """Folders that hold a file of one of the sequences: ``folder`` itself and all in it, sorted.

    A folder where others are missing is among them, so that :func:`load_brats` can name what is not there.

    Raises:
        VolumeError: no such folder, or no case in it.
    """

    def is_sequence(name: str) -> bool:
        match = _NAME.fullmatch(name)
        return match is not None and match[2].lower() in _SEQUENCE_OF

    what = "a case: files such as NAME_t1ce.nii.gz or NAME-t1c.nii.gz"
    return folders_with(Path(folder), is_sequence, what, VolumeError)


def load_brats(folder: str | os.PathLike[str]) -> BratsCase:
    """Read a case: ``*_t1``, ``*_t1ce``, ``*_t2``, ``*_flair`` and perhaps ``*_seg``, as ``.nii`` or ``.nii.gz``.

    The names of BraTS from 2023 on are read, too: ``*-t1n``, ``*-t1c``, ``*-t2w``, ``*-t2f`` and ``*-seg``. There the
    enhancing rim is label 3; it becomes 4 here. Case does not matter.

    Raises:
        VolumeError: no such folder; sequences that are missing or there twice; names of both kinds; sizes or affines
            that differ; labels that are not those of BraTS; a file that :func:`fastseg.io.load_nifti` refuses.
    """
    folder = Path(folder)
    files, labels_file, new = _case_files(folder)
    volumes = {}
    for sequence, path in files.items():
        volumes[sequence] = volume = load_nifti(path)
        if len(volume.data) != 1:
            raise VolumeError(f"{path}: {len(volume.data)} channels, expected one: this is the file of {sequence}")
        _check_grid(path, volume, files["T1"], volumes["T1"])
    first = volumes["T1"]
    data = np.concatenate([volume.data for volume in volumes.values()])
    labels = None
    if labels_file is not None:
        known = load_labels(labels_file)
        _check_grid(labels_file, known, files["T1"], first)
        labels = _brats_labels(labels_file, known.data, new)
    return BratsCase(
        _case_name(folder, files),
        Volume(data, first.affine, first.header),
        labels,
        files,
        enhancing_was_3=new and labels is not None,
    )


def _case_files(folder: Path) -> tuple[dict[str, Path], Path | None, bool]:
    """The sequences' files, the one of the labels, and whether the names are those from 2023 on."""
    check_folder(folder, VolumeError)
    found: dict[str, list[Path]] = {name: [] for name in (*_ENDINGS, "labels")}
    kinds: dict[bool, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or path.name.startswith(".") or not path.is_file():
            continue
        ending = match[2].lower()
        sequence = _SEQUENCE_OF.get(ending, "labels")
        found[sequence].append(path)
        if sequence != "labels":
            kinds[ending == _ENDINGS[sequence][1]] = path
    for sequence, paths in found.items():
        if len(paths) > 1:
            raise VolumeError(
                f"{folder}: several files for {sequence}, {' and '.join(path.name for path in paths)}, expected one"
            )
    missing = [f"{name} (*_{old} or *-{new})" for name, (old, new) in _ENDINGS.items() if not found[name]]
    if missing:
        raise VolumeError(f"{folder}: there is no file for {', '.join(missing)}, expected .nii or .nii.gz")
    if len(kinds) > 1:
        raise VolumeError(
            f"{folder}: {kinds[False].name} is named as in BraTS up to 2021 and {kinds[True].name} as from 2023 on, "
            "expected one of the two: they have different labels"
        )
    labels = found.pop("labels")
    return {sequence: paths[0] for sequence, paths in found.items()}, labels[0] if labels else None, True in kinds


def _case_name(folder: Path, files: Mapping[str, Path]) -> str:
    starts = {match[1] for path in files.values() if (match := _NAME.fullmatch(path.name))}
    return starts.pop() if len(starts) == 1 else folder.resolve().name


def _check_grid(path: Path, volume: Volume | LabelVolume, like_path: Path, like: Volume) -> None:
    shape, expected = volume.data.shape[-3:], like.data.shape[-3:]
    if shape != expected:
        raise VolumeError(f"{path}: {_size(shape)} voxels, expected those of {like_path.name}, {_size(expected)}")
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(shape) - 1)
    moved = corners @ (volume.affine - like.affine)[:3, :3].T + (volume.affine - like.affine)[:3, 3]
    distance = np.linalg.norm(moved, axis=1).max()
    if distance > _SAME_PLACE * np.linalg.norm(like.affine[:3, :3], axis=0).min():
        raise VolumeError(
            f"{path}: the affine is {_rows(volume.affine)}, that of {like_path.name} {_rows(like.affine)}: the volumes "
            f"lie up to {distance:.3g} mm apart, expected one place"
        )


def _brats_labels(path: Path, labels: NDArray[np.integer], new: bool) -> NDArray[np.uint8]:
    expected = _NEW if new else _OLD
    others = np.setdiff1d(labels, expected)
    if others.size:
        years = "from 2023 on" if new else "up to 2021"
        raise VolumeError(f"{path}: labels {listed(others)}, expected {listed(expected)} of BraTS {years}")
    result = labels.astype(np.uint8)
    if new:
        result[result == 3] = 4
    return result


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _rows(affine: NDArray[np.float64]) -> str:
    return str(affine[:3].round(4).tolist())
