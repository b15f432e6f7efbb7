"""Which layers a network is built of: those of fastseg.nn, or the same in plain torch."""

from __future__ import annotations

from typing import Any

import fastseg.nn
from fastseg.backends.select import forced


def layers() -> Any:
    """:mod:`fastseg.nn`; inside ``with fastseg.backend("reference"):`` :mod:`fastseg.models.plain`.

    Both have classes of the same names, arguments and state_dict keys. A block calls it in its constructor::

        self.norm = layers().InstanceNormAct3d(channels, affine=True)
    """
    if wants_plain():
        from fastseg.models import plain

        return plain
    return fastseg.nn


def wants_plain() -> bool:
    """Whether a network is being built from plain torch, without rearranging what the paper draws."""
    return forced() == "reference"
