"""Launches the Triton kernel of the weighted median: one program for each pixel of the mask.

To move: src, guide and mask once, and dst twice, for it begins as a copy of src; windows come from the caches. What
takes the time is to weigh (2 radius + 1)^2 pixels, 30 operations each, and to go over them some ten times. Up to radius
31 (22 in float64) a window stays in registers; larger ones are weighed again in each pass.

A mask is read by the host, which waits for it: a program for every other pixel would cost more.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fastseg.backends.images import dense_rows
from fastseg.backends.triton.tensors import compute_dtype, launch
from fastseg.backends.triton.weighted_median_kernels import filter_pixels

BLOCK_BYTES = 16 * 1024  # of a window's values, which are in registers at a time
THREAD_BYTES = 64


def weighted_median(
    src: Tensor,
    guide: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    radius: int,
    sigma_color: float,
    sigma_space: float,
) -> Tensor:
    src = src.contiguous()
    if mask is None:
        dst, pixels, programs = torch.empty_like(src), None, src.numel()
    else:
        pixels = mask.expand(src.shape).reshape(-1).nonzero().squeeze(1)
        dst, programs = src.clone(), pixels.numel()
    if programs > 0:
        filter_listed(src, guide, pixels, programs, weights, dst, radius, sigma_color, sigma_space)
    return dst


def filter_listed(
    src: Tensor,
    guide: Tensor,
    pixels: Tensor | None,
    programs: int,
    weights: Tensor | None,
    dst: Tensor,
    radius: int,
    sigma_color: float,
    sigma_space: float,
) -> None:
    guide = guide.contiguous()
    if weights is not None:
        weights = dense_rows(weights.expand(src.shape))
    _, channels, height, width = src.shape
    reach = min(radius, max(height, width) - 1)
    itemsize = compute_dtype(src.dtype).itemsize
    block = min(triton.next_power_of_2((2 * reach + 1) ** 2), BLOCK_BYTES // itemsize)
    warps = max(block * itemsize // (32 * THREAD_BYTES), 1)
    strides = (0, 0) if weights is None else weights.stride()[:2]
    with torch.cuda.device_of(src):
        launch(
            filter_pixels, programs, warps,
            src, guide, weights, pixels, dst, channels, height, width, *strides, sigma_color**-2, sigma_space**-2,
            GUIDES=guide.shape[1], RADIUS=reach, BLOCK=block,
        )  # fmt: skip
