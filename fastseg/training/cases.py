"""Patients ready for training: normalised, in RAS order, in memory or in files of which only what is needed is read."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastseg.io.files import saving
from fastseg.training.errors import TrainingError

Slices = NDArray[np.floating]
Labels = NDArray[np.uint8]

# Of what is stored: raise it when normalisation, synthetic lesions or the file's layout change, so that cases which an
# earlier version prepared are made anew.
_VERSION = 1


@dataclass(frozen=True)
class Case:
    """A patient's slices.

    Attributes:
        name: of the patient.
        shape: (Z, C, X, Y).
        content: the slices (Z, C, X, Y), floating point, z-scored inside the brain, and their labels (Z, X, Y), uint8;
            or the file that :func:`store` wrote.
    """

    name: str
    shape: tuple[int, int, int, int]
    content: tuple[Slices, Labels] | Path

    def open(self) -> tuple[Slices, Labels]:
        """Slices and labels; of a file only what is then indexed is read."""
        if isinstance(self.content, tuple):
            return self.content
        both = np.load(self.content, mmap_mode="r")
        return both["image"], both["labels"]


def in_memory(name: str, image: NDArray[np.float32], labels: Labels) -> Case:
    """A case of image (C, X, Y, Z) and labels (X, Y, Z), without the slices at both ends that are zero throughout."""
    seen = np.flatnonzero((image != 0).any((0, 1, 2)))
    kept = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(None)
    slices = np.ascontiguousarray(np.moveaxis(image, -1, 0)[kept])
    z, c, x, y = slices.shape
    return Case(name, (z, c, x, y), (slices, np.ascontiguousarray(np.moveaxis(labels, -1, 0)[kept])))


@dataclass(frozen=True)
class Source:
    """A patient as found, not read yet.

    Attributes:
        name: of the patient.
        files: that ``read`` reads.
        read: makes the case.
        key: what else the case depends on.
        group: patients of one group are never split; empty: the patient alone.
    """

    name: str
    files: tuple[Path, ...]
    read: Callable[[], Case]
    key: str = ""
    group: str = ""

    def stored_as(self) -> str:
        """A file name that changes with the files and with how they are prepared."""
        facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        digest = hashlib.sha256(json.dumps([_VERSION, facts, self.key]).encode()).hexdigest()[:16]
        return f"{re.sub(r'[^A-Za-z0-9._-]', '_', self.name)}-{digest}.npy"


def store(
    folder: Path,
    sources: Sequence[Source],
    *,
    part: tuple[int, int] = (0, 1),
    on_case: Callable[[], None] | None = None,
) -> None:
    """Write the case of each source into ``folder``, but those that are there from an earlier run.

    Args:
        folder: made where it is not there.
        part: (rank, world): every ``world``-th source, from ``rank`` on.
        on_case: called after each.

    Raises:
        TrainingError: the folder cannot be written to, or the disk is too small for all cases.
        FileError: what reading raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, world = part
    checked = False
    for source in sources[rank::world]:
        path = folder / source.stored_as()
        if not path.exists():
            case = source.read()
            image, labels = case.open()
            both = np.empty(case.shape[0], _record(case.shape))
            both["image"], both["labels"] = image, labels
            if not checked:  # by the first that is made: the others are about as large
                missing = sum(not (folder / other.stored_as()).exists() for other in sources)
                _check_room(folder, both.nbytes * missing, missing)
                checked = True
            with saving(path, TrainingError) as temporary, temporary.open("wb") as file:
                np.save(file, both)
        if on_case is not None:
            on_case()


def stored(folder: Path, sources: Sequence[Source]) -> list[Case]:
    """The cases that :func:`store` wrote, in the order of the sources."""
    cases = []
    for source in sources:
        path = folder / source.stored_as()
        both = np.load(path, mmap_mode="r")
        cases.append(Case(source.name, (len(both), *both.dtype["image"].shape), path))
    return cases


def _record(shape: tuple[int, int, int, int]) -> np.dtype[np.void]:
    """A slice and its labels side by side, so that one read gets both; 16 bits are enough for z-scores."""
    return np.dtype([("image", np.float16, shape[1:]), ("labels", np.uint8, shape[2:])])


def _check_room(folder: Path, needed: int, cases: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"{folder}: {cases} cases to prepare take about {needed / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB "
            "are free"
        )
