"""The error of data that cannot be trained on, and of runs that cannot be begun or go on."""

from __future__ import annotations

from fastseg.io.files import FileError


class TrainingError(FileError):
    """The message names the file, the argument or the step, and what was expected."""
