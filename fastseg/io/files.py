"""What readers and writers of every format share: files that appear whole, and errors that name the file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class FileError(ValueError):
    """A file that cannot be read or written; the message names the file and the reason."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``: renamed to it when the block ends, removed when the block fails."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the ending stays: writers choose the format by it
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as refused:
        _rename(refused, temporary, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _rename(refused: OSError, temporary: Path, path: Path) -> None:
    """Let an error about ``temporary``, or about a file in it, name what the user knows."""
    if isinstance(refused.filename, str | os.PathLike):
        with suppress(ValueError):  # it is about another file
            refused.filename = str(path / Path(refused.filename).relative_to(temporary))
            refused.filename2 = None


@contextmanager
def written_together(folder: Path, replaces: Iterable[str] = ()) -> Iterator[Path]:
    """A temporary folder inside ``folder``: its files move up when the block ends, and none does when the block fails.

    Args:
        folder: made where it is not there.
        replaces: names of files of an earlier run, removed where this one writes none of that name.

    Raises:
        FileError: a folder in ``folder`` has the name of a file.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        yield staged
        files = sorted(staged.iterdir())
        for file in files:
            if (folder / file.name).is_dir():
                raise FileError(f"{folder / file.name}: this is a folder")
        for file in files:
            os.replace(file, folder / file.name)
        for name in set(replaces) - {file.name for file in files}:
            (folder / name).unlink(missing_ok=True)
    except OSError as refused:
        _rename(refused, staged, folder)
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if not existed:
            with suppress(OSError):  # it is not empty: all went well
                folder.rmdir()


@contextmanager
def saving(path: Path, error: type[FileError]) -> Iterator[Path]:
    """:func:`written_whole`, where what the system refuses becomes an ``error`` that names the file."""
    try:
        with written_whole(path) as temporary:
            yield temporary
    except OSError as refused:
        raise error(f"{path}: cannot be written ({refused.strerror or refused})") from refused


def first_bytes(path: Path, error: type[FileError]) -> bytes:
    """The head of a file, 512 bytes at most, which says what kind of file it is.

    Raises:
        FileError: of the kind ``error``: missing, a folder, not to be opened, or empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as missing:
        raise error(f"{path}: there is no such file") from missing
    except IsADirectoryError as folder:
        raise error(f"{path}: this is a folder") from folder
    except OSError as refused:
        raise error(f"{path}: cannot be read ({refused.strerror or refused})") from refused
    if not head:
        raise error(f"{path}: the file is empty")
    return head


def check_folder(folder: Path, error: type[FileError]) -> None:
    """Refuses what is no folder."""
    if not folder.is_dir():
        raise error(f"{folder}: {'this is a file' if folder.exists() else 'there is no such folder'}")


def folders_with(folder: Path, wanted: Callable[[str], object], what: str, error: type[FileError]) -> list[Path]:
    """``folder`` and those in it, however deep, that hold a file with a ``wanted`` name, sorted.

    Links to folders are followed; a folder with several names is listed once. Hidden files and folders are passed over:
    some systems leave a hidden companion beside every file.

    Raises:
        FileError: of the kind ``error``: no folder, one that cannot be read, or no such file in any; ``what`` says what
            was looked for.
    """
    check_folder(folder, error)

    def refused(reason: OSError) -> None:
        raise error(f"{reason.filename}: cannot be read ({reason.strerror})") from reason

    found, seen = [], set()
    for root, folders, files in os.walk(folder, onerror=refused, followlinks=True):
        if (place := os.path.realpath(root)) in seen:  # a link to a folder that was there, perhaps to one above it
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(wanted(name) for name in files if not name.startswith(".")):
            found.append(Path(root))
    if not found:
        raise error(f"{folder}: neither this folder nor those in it hold {what}")
    return sorted(found)


def check_ending(path: Path, error: type[FileError], *endings: str) -> None:
    """A name that says what is in the file: others choose the reader by it."""
    if path.suffix.lower() not in endings:
        raise error(f"{path}: expected a name that ends in {' or '.join(endings)}")


def first_line(error: Exception) -> str:
    """What an error of another library says, as a part of one sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def found_by(find: Callable[[Path], list[Path]], folder: Path) -> list[Path]:
    """What ``find`` finds in ``folder``; nothing where it refuses: the folder may hold cases of another kind.

    Raises:
        FileError: a folder that cannot be read, of which nobody knows what it holds.
    """
    try:
        return find(folder)
    except FileError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return []


def listed(values: Iterable[object], most: int = 5) -> str:
    """``a, b, c`` for an error; of more than ``most`` the number of the others."""
    names = [str(value) for value in values]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
