"""Whole networks take turns with one of ours, the anchor: each row counts by the anchor's time beside it.

On a shared machine the time of another minute says little. The anchor itself has none beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OURS = ("fastseg", "accelerate")


def ratio(row: Any, ours: Any) -> float:
    """The time of a peer over that of ours, rows of report.py."""
    if row.beside is None and ours.beside is None:
        return row.median / ours.median
    return _by_the_anchor(row) / _by_the_anchor(ours)


def ours_in(peers: Mapping[str, Any]) -> Any:
    """The fastest row of ours, or None; torch's own ops, where they were forced, are not ours."""
    named = [row for name, row in peers.items() if name.startswith(OURS) and "[reference]" not in name]
    turns = any(row.beside for row in named)
    return min(named, key=lambda row: _by_the_anchor(row) if turns else row.median, default=None)


def _by_the_anchor(row: Any) -> float:
    return row.median / row.beside if row.beside else 1.0
