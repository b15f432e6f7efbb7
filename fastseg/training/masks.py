"""Checks of the arrays that metrics take: masks, and the size of their voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.ops.arrays import Array, as_tensor


def checked_masks(function: str, pred: Array, truth: Array) -> tuple[Tensor, Tensor]:
    """Both as tensors on one device.

    Raises:
        TypeError, ValueError: no masks of bool, of different shapes, or without a voxel.
    """
    found, true = checked_mask(function, "pred", pred), checked_mask(function, "truth", truth)
    if found.shape != true.shape:
        raise ValueError(f"{function}: pred has shape {tuple(found.shape)}, expected the truth's {tuple(true.shape)}")
    return found, true.to(found.device)


def checked_mask(function: str, name: str, array: Array) -> Tensor:
    mask = as_tensor(function, name, array)
    if mask.dtype != torch.bool:
        raise TypeError(f"{function}: {name} is {mask.dtype}, expected bool")
    if not mask.numel():
        raise ValueError(f"{function}: {name} has shape {tuple(mask.shape)}, expected at least one voxel")
    return mask


def checked_spacing(function: str, spacing: float | Sequence[float], axes: int) -> tuple[float, ...]:
    """One positive number for each axis."""
    steps = tuple(float(step) for step in ((spacing,) * axes if isinstance(spacing, (int, float)) else spacing))
    if len(steps) != axes or not all(0 < step < math.inf for step in steps):
        raise ValueError(f"{function}: spacing is {spacing}, expected a number > 0 for each of {axes} axes")
    return steps
