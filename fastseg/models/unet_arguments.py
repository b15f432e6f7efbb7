"""Checks of arguments that networks with levels share."""

from __future__ import annotations

from collections.abc import Sequence


def channels_of_levels(network: str, argument: str, values: Sequence[int], count: int | None = None) -> tuple[int, ...]:
    """``values`` as a tuple: one number of channels for each of ``count`` levels, or of two or more.

    Raises:
        ValueError: another number of levels, or a number below 1.
    """
    channels = tuple(values)
    fits = len(channels) >= 2 if count is None else len(channels) == count
    if not fits or any(number < 1 for number in channels):
        levels = "two or more" if count is None else count
        raise ValueError(f"{network}: {argument} is {channels}, expected {levels} numbers >= 1, one for each level")
    return channels


def check_dropout(network: str, dropout: float) -> None:
    """Raises ValueError unless ``dropout`` is in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{network}: dropout is {dropout}, expected a share in [0, 1)")
