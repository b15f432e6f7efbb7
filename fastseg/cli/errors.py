"""The one error that the command line turns into a sentence and exit code 2."""

from __future__ import annotations

import importlib.util


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
