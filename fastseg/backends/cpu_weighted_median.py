"""Launches the CPU kernel of the weighted median. No checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.images import dense_rows, images
from fastseg.backends.memory import new_output


def weighted_median(
    src: Tensor,
    guide: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    radius: int,
    sigma_color: float,
    sigma_space: float,
) -> Tensor:
    src, guide = dense_rows(src), dense_rows(guide)
    batch, channels, height, width = src.shape
    if mask is not None:
        mask = dense_rows(mask.expand(src.shape).view(torch.uint8))
    if weights is not None:
        weights = dense_rows(weights.expand(src.shape))
    dst = new_output(src, channels, (height, width), "rows")
    _C.weighted_median(
        batch,
        channels,
        height,
        width,
        images(src),
        images(guide),
        guide.shape[1],
        None if mask is None else images(mask),
        None if weights is None else images(weights),
        images(dst),
        radius,
        sigma_color,
        sigma_space,
        torch.get_num_threads(),
    )
    return dst
