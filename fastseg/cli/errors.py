"""The one error that the command line turns into a sentence and exit code 2."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastseg.backends.select import BackendError
from fastseg.io import FileError


class CommandError(Exception):
    """Input that a command cannot work with. The message is one sentence for the person at the terminal."""


def installed(module: str) -> bool:
    """Whether a top-level module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def require(extra: str, *modules: str) -> None:
    """Refuse to go on without modules that belong to an extra.

    Raises:
        CommandError: one is not installed; names all that are missing and the extra that brings them.
    """
    missing = [module for module in modules if not installed(module)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise CommandError(f'{", ".join(missing)} {verb} not installed: pip install "fastseg-kernels[{extra}]"')


@contextmanager
def sentences(when_memory_ends: str) -> Iterator[None]:
    """What files, kernels and systems refuse becomes a CommandError.

    Args:
        when_memory_ends: what to do when the GPU has too little memory.
    """
    try:
        yield
    except (FileError, BackendError) as error:
        raise CommandError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise CommandError(f"the GPU has too little memory: {when_memory_ends}") from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
