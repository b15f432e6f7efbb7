"""Zeros around images that a network's size divisor does not divide: the same for every way of predicting them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def padded_size(size: float, divisor: int) -> int:
    """The least size that holds ``size`` voxels and that a network of ``divisor`` takes.

    Twice the divisor at least: instance norm has no variance over one voxel of the lowest resolution.
    """
    return max(2, math.ceil(size / divisor)) * divisor


def padded(images: Tensor, sizes: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """(N, C, *spatial) with zeros on both sides up to ``sizes``, and the index of the images within."""
    short = [size - have for size, have in zip(sizes, images.shape[2:], strict=True)]
    before = [missing // 2 for missing in short]
    inside = tuple(slice(first, first + have) for first, have in zip(before, images.shape[2:], strict=True))
    pairs = [(first, missing - first) for first, missing in zip(before, short, strict=True)]
    padding = [side for pair in reversed(pairs) for side in pair]  # torch pads the last axis first
    return F.pad(images, padding) if any(padding) else images, (slice(None), slice(None), *inside)
