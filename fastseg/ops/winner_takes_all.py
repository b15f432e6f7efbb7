"""The winner of a cost volume at each pixel and its surroundings, from a volume that need not be in memory whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops.arrays import Array, as_kind_of, as_tensor, reads_numbers
from fastseg.ops.guided_images import IMAGE_DTYPES
from fastseg.ops.registry import register

_NAME = "winner_takes_all"
#: Of slices and of reach, so that 32 bits hold every difference of two of them.
_MOST = (1 << 30) - 1


class Winner(NamedTuple):
    """What :func:`winner_takes_all` finds at each pixel: arrays (H, W), or (B, H, W) for a batch of volumes."""

    index: Any  #: int32, the slice of least cost, counted from the first slice of the first chunk; -1: none yet
    cost: Any  #: its cost, inf where there is none
    before: Any  #: cost of slice index - 1, inf where there is none
    after: Any  #: cost of slice index + 1, inf where there is none, or not yet
    second: Any  #: least cost of the candidates beside index - 1, index and index + 1, inf where there is none
    last: Any  #: cost of the last slice so far, which the next chunk needs
    slices: int  #: how many slices so far


def winner_takes_all(
    costs: Array, *, previous: Winner | None = None, near: Array | None = None, reach: int = 0
) -> Winner:
    """The slice of least cost at each pixel, with the costs that sub-pixel positions and confidences are made from.

    Volumes may come in chunks of slices, each with the winner so far: what is found is, bit for bit, what one call
    finds in the whole volume. Of equal costs the first slice wins, and infinite ones never do: where all candidates
    are infinite there is no winner, index is -1 and all costs but ``last`` are inf. Nothing here has a gradient.

    Args:
        costs: (D, H, W) or (B, D, H, W) of D >= 1 slices: NumPy, CuPy or torch; float32, float64, float16, bfloat16 or
            uint8. Where rows are not dense, they are copied first.
        previous: the winner of the slices before; costs[..., 0, :, :] is slice ``previous.slices``.
        near: int32 or int64, (H, W) or (B, H, W): only slices that differ from it by at most ``reach`` are candidates,
            which can be index and second. before, after and last are of any slice. The same for all chunks.
        reach: 0 to 2^30 - 1, with ``near``.

    Returns:
        A :class:`Winner` of arrays of costs' kind, on its device; costs in float32, in float64 for float64.

    Raises:
        ValueError: a wrong shape, another device, 2^30 slices or more, NaN among the costs (not looked for under
            torch.compile: cost is NaN there), reach without near or out of its range.
        TypeError: another dtype, or no array.
    """
    volume = as_tensor(_NAME, "costs", costs).detach()
    _check_costs(volume)
    state, slices = _previous(previous, volume)
    window, reach = _window(near, reach, volume)
    if slices + volume.shape[-3] > _MOST:
        raise ValueError(
            f"{_NAME}: costs has {volume.shape[-3]} slices after {slices}, expected at most {_MOST} in all"
        )
    if select.runs_reference(_NAME, volume):
        resumed = (*state, slices) if state else None
        *found, _ = reference.winner_takes_all(volume, previous=resumed, near=window, reach=reach)
    else:
        batched = volume.ndim == 4
        images = volume if batched else volume.unsqueeze(0)
        found = _op(images, state, slices, window, reach)
        if not batched:
            found = [t.view(volume.shape[-2:]) for t in found]
    if reads_numbers():
        check_costs(_NAME, found[1])
    index, cost, before, after, second, last = (as_kind_of(costs, t) for t in found)
    return Winner(index, cost, before, after, second, last, slices + volume.shape[-3])


def _check_costs(costs: Tensor) -> None:
    if costs.dtype not in IMAGE_DTYPES:
        raise TypeError(f"{_NAME}: costs is {costs.dtype}, expected float32, float64, float16, bfloat16 or uint8")
    if costs.ndim not in (3, 4) or 0 in costs.shape[-3:]:
        raise ValueError(
            f"{_NAME}: costs has shape {tuple(costs.shape)}, expected (D, H, W) or (B, D, H, W) with at least one "
            "slice and one pixel"
        )


def check_costs(op: str, cost: Tensor) -> None:
    """Refuses NaN in the least costs of a volume, which stays where it was in any slice."""
    if not math.isnan(cost.sum().item()):  # one sum of a plane tells in most calls
        return
    wrong = torch.isnan(cost)
    if not bool(wrong.any()):
        return  # infinity of both signs
    first = tuple(int(i) for i in wrong.nonzero()[0])
    raise ValueError(
        f"{op}: costs has NaN at {int(wrong.sum())} pixels, the first of them {first}; expected numbers, or "
        "infinity for what cannot win"
    )


def _previous(previous: Winner | None, costs: Tensor) -> tuple[list[Tensor], int]:
    """Its arrays, and how many slices they come from."""
    if previous is None:
        return [], 0
    if not isinstance(previous, Winner):
        raise TypeError(f"{_NAME}: previous is a {type(previous).__name__}, expected a Winner")
    *arrays, slices = previous
    if not 1 <= slices <= _MOST:
        raise ValueError(f"{_NAME}: previous.slices is {slices}, expected a whole number from 1 to {_MOST}")
    state: list[Tensor] = []
    for name, array in zip(Winner._fields, arrays, strict=False):
        name = f"previous.{name}"
        t = as_tensor(_NAME, name, array).detach()
        dtype = torch.promote_types(costs.dtype, torch.float32) if state else torch.int32
        if t.dtype != dtype:
            raise TypeError(f"{_NAME}: {name} is {t.dtype}, expected {dtype} beside costs of {costs.dtype}")
        _check_pixels(name, t, costs)
        state.append(t)
    return state, slices


def _window(near: Array | None, reach: int, costs: Tensor) -> tuple[Tensor | None, int]:
    """near as int32, and reach."""
    if not (0 <= reach <= _MOST and reach == int(reach)):  # written so that NaN is refused
        raise ValueError(f"{_NAME}: reach is {reach}, expected a whole number of slices from 0 to {_MOST}")
    if near is None:
        if reach:
            raise ValueError(f"{_NAME}: reach is {reach}, expected 0 without near")
        return None, 0
    t = as_tensor(_NAME, "near", near)
    if t.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{_NAME}: near is {t.dtype}, expected int32 or int64")
    _check_pixels("near", t, costs)
    if t.dtype == torch.int64:
        t = t.clamp(-(1 << 31), (1 << 31) - 1).int()  # as far from every slice as before
    return t, int(reach)


def _check_pixels(name: str, t: Tensor, costs: Tensor) -> None:
    shape = (*costs.shape[:-3], *costs.shape[-2:])
    if t.shape != shape:
        raise ValueError(f"{_NAME}: {name} has shape {tuple(t.shape)}, expected {tuple(shape)}, the pixels of costs")
    if t.device != costs.device:
        raise ValueError(f"{_NAME}: {name} is on {t.device}, expected costs's device {costs.device}")


def _forward(costs: Tensor, previous: Sequence[Tensor], slices: int, near: Tensor | None, reach: int) -> Any:
    if costs.numel() == 0:
        return _forward_fake(costs, previous, slices, near, reach)
    return select.kernel(_NAME, costs).winner_takes_all(costs, previous, slices, near, reach)


def _forward_fake(costs: Tensor, previous: Sequence[Tensor], slices: int, near: Tensor | None, reach: int) -> Any:
    shape = (costs.shape[0], *costs.shape[2:])
    compute = torch.promote_types(costs.dtype, torch.float32)
    return tuple(costs.new_empty(shape, dtype=dtype) for dtype in (torch.int32, *5 * (compute,)))


_op = register(
    "winner_takes_all(Tensor costs, Tensor[] previous, SymInt slices, Tensor? near, SymInt reach) -> "
    "(Tensor index, Tensor cost, Tensor before, Tensor after, Tensor second, Tensor last)",
    _forward,
    _forward_fake,
)
