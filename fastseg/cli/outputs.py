"""Where results go: seen to before minutes of work, not after them."""

from __future__ import annotations

import os
from pathlib import Path

from fastseg.cli.errors import CommandError


def check_results_folder(folder: Path) -> None:
    """A folder for results that is there, or can be made.

    Raises:
        CommandError: a file has its name or that of a folder above it, or nothing can be written there.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise CommandError(f"{nearest}: File exists, expected a folder for the results")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise CommandError(f"{nearest}: this folder cannot be written to")


def check_file(path: Path, option: str, *endings: str) -> None:
    """A file with one of the endings, in a folder that is there.

    Raises:
        CommandError: another ending, a folder of that name, or no folder that can be written to.
    """
    if not path.name.endswith(endings):
        raise CommandError(f"{option} {path}: expected a name that ends in {' or '.join(endings)}")
    if path.is_dir():
        raise CommandError(f"{option} {path}: this is a folder, expected the name of a file")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"{option} {path}: there is no folder {path.parent}")
    check_results_folder(path.absolute().parent)
