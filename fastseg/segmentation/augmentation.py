"""Test-time augmentation: flips and quarter turns of a window, predictions turned back and averaged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("flips", "flips_rotations")


@dataclass(frozen=True)
class Turn:
    """Flips, then a quarter turn or none.

    Attributes:
        flips: the axes to flip, counted among the spatial ones.
        quarter_turns: in the plane of the first two spatial axes, which is the axial one in RAS order.
    """

    flips: tuple[int, ...] = ()
    quarter_turns: int = 0

    def apply(self, x: Tensor) -> Tensor:
        """(N, C, *spatial) turned; sizes of the first two spatial axes swap with an odd number of quarter turns."""
        flipped = x.flip([2 + axis for axis in self.flips]) if self.flips else x
        return torch.rot90(flipped, self.quarter_turns, (2, 3)) if self.quarter_turns % 4 else flipped

    def undo(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`apply`, exactly: voxels are moved, none is interpolated."""
        turned = torch.rot90(y, -self.quarter_turns, (2, 3)) if self.quarter_turns % 4 else y
        return turned.flip([2 + axis for axis in self.flips]) if self.flips else turned


def turns(kind: str | None, spatial_dims: int) -> tuple[Turn, ...]:
    """The ways in which a window is shown to the network; the first is as it is.

    Args:
        kind: None: none but that; ``"flips"``: all combinations of flips, 8 in 3D and 4 in 2D; ``"flips_rotations"``:
            these with the four rotations by 90 degrees in the axial plane, 16 in 3D and 8 in 2D. Flips combined with
            rotations give each twice, and here once: a half turn is two flips.

    Raises:
        ValueError: another kind.
    """
    if kind is None:
        return (Turn(),)
    if kind not in KINDS:
        raise ValueError(f"augment is {kind!r}, expected None or one of {', '.join(map(repr, KINDS))}")
    axes = range(spatial_dims)
    flips = [chosen for count in range(spatial_dims + 1) for chosen in itertools.combinations(axes, count)]
    rotations = (0, 1) if kind == "flips_rotations" else (0,)
    return tuple(Turn(chosen, quarter) for quarter in rotations for chosen in flips)


def averaged(predict: Callable[[Tensor], Tensor], x: Tensor, ways: Sequence[Turn]) -> Tensor:
    """The mean over ``ways`` of what ``predict`` gives for the turned ``x``, turned back.

    One sum is held and one prediction at a time, whatever the number of ways.

    Args:
        predict: (N, C, *spatial) to (N, K, *spatial).
    """
    total = ways[0].undo(predict(ways[0].apply(x)))
    if len(ways) == 1:
        return total
    total = total.clone()  # the prediction may be the network's input or a buffer of its own
    for way in ways[1:]:
        total += way.undo(predict(way.apply(x)))
    return total.div_(len(ways))
