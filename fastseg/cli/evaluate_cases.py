"""Which files ``fastseg evaluate segmentation`` compares with which."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fastseg.cli.errors import CommandError
from fastseg.io import has_lgg_masks
from fastseg.io.files import listed

#: How the names of files end that hold labels or probabilities, without .nii or .nii.gz.
LABELS = ("seg", "segm", "labels")
PROBABILITIES = ("prob", "probs", "probabilities")

_NIFTI = re.compile(r"(?P<stem>.+)\.nii(?:\.gz)?", re.IGNORECASE)


def matched(results: Path, truth: Path, endings: Sequence[str] = LABELS) -> dict[str, tuple[Path, Path]]:
    """Name of the case -> what ``results`` and what ``truth`` have of it: a file, or for labels a folder of masks.

    In a folder of cases, files and folders are cases. Where names of files end in one of ``endings``, others are passed
    over. Cases that ``truth`` does not have are named in a note on stderr.

    Raises:
        CommandError: a case and a folder of cases, a folder without cases, or cases of ``truth`` that ``results`` does
            not have.
    """
    if _is_case(truth, LABELS):
        if not _is_case(results, endings):
            raise CommandError(
                f"{results}: this is not one case as {truth} is: expected two cases or two folders of cases"
            )
        name = truth.name if truth.name not in ("", "..") else truth.resolve().name
        return {name: (results, truth)}
    if _is_case(results, endings):
        reason = "this is one case" if results.exists() else "there is no such folder"
        raise CommandError(
            f"{results}: {reason}; {truth} is a folder of cases: expected two cases or two folders of cases"
        )
    found, true = _cases(results, endings), _cases(truth, LABELS)
    missing = [name for name in true if name not in found]
    if missing:
        raise CommandError(f"{results}: {len(missing)} of {len(true)} cases of {truth} are missing: {listed(missing)}")
    if unscored := [name for name in found if name not in true]:
        note = f"{results}: {len(unscored)} of {len(found)} cases are not in {truth} and not scored: {listed(unscored)}"
        print(f"fastseg evaluate: note: {note}", file=sys.stderr, flush=True)
    return {name: (found[name], path) for name, path in true.items()}


def _cases(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Files of the folder by their names without ending, and the one of each folder in it by that folder's name."""
    cases: dict[str, Path] = {}
    found = [(_case_name(path, endings), path) for path in _files(folder, endings)]
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = _files(inner, endings)
        if not files and _is_case(inner, endings):
            files = [inner]
        if len(files) > 1:
            raise CommandError(
                f"{inner}: {files[0].name} or {files[1].name}? Expected one NIfTI file, or one named "
                f"*_{endings[0]}.nii.gz"
            )
        found += [(inner.name, path) for path in files]
    for name, path in found:
        if name in cases:
            raise CommandError(f"{folder}: {cases[name].name} and {path.name} are both of case {name}, expected one")
        cases[name] = path
    if not cases:
        raise CommandError(f"{folder}: holds no case: expected NAME.nii.gz, or folders with a NIfTI file or masks each")
    return cases


def _is_case(path: Path, endings: Sequence[str]) -> bool:
    """Masks are labels, and no probabilities."""
    return not path.is_dir() or (endings is LABELS and has_lgg_masks(path))


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    """NIfTI files: those with one of the endings, or all where none has one."""
    files = sorted(path for path in folder.iterdir() if _NIFTI.fullmatch(path.name) and not path.name.startswith("."))
    return [path for path in files if _ending(path, endings) is not None] or files


def _case_name(path: Path, endings: Sequence[str]) -> str:
    stem, ending = _stem(path), _ending(path, endings)
    return stem if ending is None else stem[: -len(ending)].rstrip("_-") or stem


def _ending(path: Path, endings: Sequence[str]) -> str | None:
    last = re.split("[_-]", _stem(path))[-1]
    return last if last.lower() in endings else None


def _stem(path: Path) -> str:
    match = _NIFTI.fullmatch(path.name)
    assert match is not None, "only NIfTI files get here"
    return match["stem"]
