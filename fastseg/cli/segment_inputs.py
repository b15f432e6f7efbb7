"""What ``fastseg segment`` is given: which kind of input a path is, and the cases in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastseg.cli.errors import CommandError
from fastseg.io import (
    BratsCase,
    LggCase,
    Volume,
    find_brats,
    find_lgg,
    load_brats,
    load_lgg,
    load_nifti,
)
from fastseg.io.files import found_by

Kind = Literal["volume", "brats", "slices"]


@dataclass(frozen=True)
class Source:
    """A case that has not been read."""

    path: Path
    kind: Kind

    def read(self) -> Volume | BratsCase | LggCase:
        """Raises: FileError: it cannot be read."""
        if self.kind == "volume":
            return load_nifti(self.path)
        return load_brats(self.path) if self.kind == "brats" else load_lgg(self.path)


def sources(path: Path) -> tuple[list[Source], bool]:
    """The cases of a path, and whether it is a folder of cases rather than one case.

    Raises:
        CommandError: there is no such file or folder; or a folder without cases, with cases of two kinds, or with
            cases of one name.
    """
    if not path.exists():
        raise CommandError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return [Source(path, "volume")], False
    cases = [Source(folder, "brats") for folder in found_by(find_brats, path)]
    slices = [Source(folder, "slices") for folder in found_by(find_lgg, path)]
    if cases and slices:
        raise CommandError(
            f"{path}: {cases[0].path} holds volumes of BraTS and {slices[0].path} slices, expected one kind"
        )
    found = cases or slices
    if not found:
        raise CommandError(
            f"{path}: neither this folder nor those in it hold a case: volumes such as NAME_t1ce.nii.gz or slices such "
            "as NAME_1.tif"
        )
    if [source.path for source in found] == [path]:
        return found, False
    names: dict[str, Path] = {}
    for source in found:
        first = names.setdefault(source.path.name, source.path)
        if first != source.path:
            raise CommandError(f"{first} and {source.path} have one name, expected one for each case")
    return found, True
