"""Launches the Triton kernels of cross-scale aggregation, forward and backward, for levels of one size and pyramids.

Bytes to move, in u, one pass over the finest level; S levels:

    full size, forward      (S + 1)u: read all levels, write the result
    full size, backward     (S + 1)u: read the gradient, write those of all levels
    pyramid, forward        2u and a seventh: the finest level and the result, and u / 8^s of each coarser level, whose
                            elements are read several times, from the caches but for the first time
    pyramid, backward       2u and 3/7 at most: a launch a level, with the sums that the next level gathers between them

No atomics: every element gathers what looked it up, in a fixed order, so results are deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from fastseg.backends.triton.cross_scale_kernels import (
    combine_full_size,
    combine_pyramid,
    spread_full_size,
    spread_pyramid,
)
from fastseg.backends.triton.tensors import compute_dtype, launch

WARPS = 4
BLOCK_BYTES = 4 * 1024  # of values as computed with: eight a thread, two 16-byte accesses of float32
TRITON_TYPE = {torch.float32: triton.language.float32, torch.float64: triton.language.float64}


def block_of(dtype: torch.dtype) -> int:
    return BLOCK_BYTES // compute_dtype(dtype).itemsize


def tile_of(rows: int, width: int, elements: int) -> tuple[int, int]:
    """(rows, columns) of a tile of so many elements at most, powers of two."""
    columns = min(triton.next_power_of_2(width), elements)
    return min(elements // columns, triton.next_power_of_2(rows)), columns


def halved(value: int, times: int = 1) -> int:
    return -(-value // 2**times)


def cross_scale_aggregate(
    costs: Sequence[Tensor], lambda_: float, min_disparity: int, pyramid: bool
) -> tuple[Tensor, Tensor]:
    levels = tuple(cost.contiguous() for cost in costs)
    result = torch.empty_like(levels[0])
    finite = torch.ones((), dtype=torch.bool, device=result.device)
    constants = {"LEVELS": len(levels), "ACC": TRITON_TYPE[compute_dtype(result.dtype)]}
    with torch.cuda.device_of(result):
        if not pyramid:
            block = block_of(result.dtype)
            launch(
                combine_full_size, triton.cdiv(result.numel(), block), WARPS,
                levels, result, finite.view(torch.uint8), result.numel(), lambda_, BLOCK=block, **constants,
            )  # fmt: skip
            return result, finite
        height, width = result.shape[2:]
        rows = result.numel() // width
        block, columns = tile_of(rows, width, block_of(result.dtype))
        launch(
            combine_pyramid, triton.cdiv(rows, block) * triton.cdiv(width, columns), WARPS,
            levels, tuple(level.shape[1] for level in levels), result, finite.view(torch.uint8), rows, height, width,
            min_disparity, lambda_, BLOCK_R=block, BLOCK_X=columns, **constants,
        )  # fmt: skip
    return result, finite


def cross_scale_aggregate_backward(
    grad: Tensor,
    lambda_: float,
    min_disparity: int,
    pyramid: bool,
    shapes: Sequence[Sequence[int]],
    wanted: Sequence[int],
) -> list[Tensor]:
    grad = grad.contiguous()
    with torch.cuda.device_of(grad):
        if pyramid:
            return _spread_pyramid(grad, lambda_, min_disparity, shapes, wanted)
        gradients = [torch.empty_like(grad) for _ in wanted]
        places = dict(zip(wanted, gradients, strict=True))
        block = block_of(grad.dtype)
        launch(
            spread_full_size, triton.cdiv(grad.numel(), block), WARPS,
            grad, tuple(places.get(s, grad) for s in range(len(shapes))), grad.numel(), lambda_,
            LEVELS=len(shapes), WANTED=sum(1 << s for s in wanted), ACC=TRITON_TYPE[compute_dtype(grad.dtype)],
            BLOCK=block,
        )  # fmt: skip
    return gradients


def _spread_pyramid(
    grad: Tensor, lambda_: float, min_disparity: int, shapes: Sequence[Sequence[int]], wanted: Sequence[int]
) -> list[Tensor]:
    gradients = []
    sums, first, used = grad, min_disparity, grad.shape[1]
    for level in range(max(wanted) + 1):
        batch, disparities, height, width = shapes[level]
        gradient = sums
        if level in wanted:
            # Disparities that nobody looks up have a gradient of zero.
            fresh = grad.new_empty if disparities == used else grad.new_zeros
            gradient = fresh(tuple(shapes[level]))
            gradients.append(gradient)
        gathers = level < max(wanted)
        next_first, next_used = halved(first), halved(first + used - 1) - halved(first) + 1
        next_sums = sums
        if gathers:
            size = (batch, next_used, halved(height), halved(width))
            next_sums = grad.new_empty(size, dtype=compute_dtype(grad.dtype))
        rows = batch * next_used * halved(height)
        # Four tiles of pairs are in flight: a half of a block each keeps their addresses in registers.
        block, columns = tile_of(rows, halved(width), block_of(grad.dtype) // 4)
        launch(
            spread_pyramid, triton.cdiv(rows, block) * triton.cdiv(halved(width), columns), WARPS,
            sums, gradient, next_sums, rows, disparities, used, height, width, first, lambda_,
            LEVEL=level, LEVELS=len(shapes), WANTED=level in wanted, GATHERS=gathers,
            ACC=TRITON_TYPE[compute_dtype(grad.dtype)], BLOCK_R=block, BLOCK_X=columns,
        )  # fmt: skip
        sums, first, used = next_sums, next_first, next_used
    return gradients
