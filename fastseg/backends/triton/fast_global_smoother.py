"""Launches the Triton kernel of the fast global smoother: one for the rows and one for the columns of an iteration.

Bytes to move in a pass, in u, one pass over the images in float32, beside the guide (read for each channel, from the
cache but for the first time):

    lines that fit a tile       2u: read f, write u
    longer lines                6u: read f, write z and c, read z and c, write u; all but 2u from the second-level
                                cache, where the lines of the programs that run fit it

Programs hold some lines: neighbouring columns, to use whole sectors of memory. No atomics: results are deterministic.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fastseg.backends.triton.fast_global_smoother_kernels import solve_lines
from fastseg.backends.triton.tensors import compute_dtype, launch

WARPS = 8
TILE_BYTES = 4 * 1024  # of values as computed with: four a thread, of about ten tiles that are alive at a time
COLUMNS = 8  # of a program: a sector of float32


def tile_of(lines: int, pixels: int, contiguous: bool, dtype: torch.dtype) -> tuple[int, int]:
    """(lines, pixels) of a tile, powers of two. Lines whose pixels are not contiguous are taken several at a time."""
    elements = TILE_BYTES // dtype.itemsize
    length = triton.next_power_of_2(pixels)
    if not contiguous:
        length = min(length, elements // COLUMNS)
    length = min(length, elements)
    return min(elements // length, triton.next_power_of_2(lines)), length


def fast_global_smoother(
    src: Tensor, guide: Tensor, lambda_: float, sigma: float, iterations: int, attenuation: float, adjoint: bool
) -> Tensor:
    src, guide = src.contiguous(), guide.contiguous()
    batch, channels, height, width = src.shape
    dst = torch.empty_like(src)
    values = dst if dst.dtype == compute_dtype(src.dtype) else src.new_empty(src.shape, dtype=compute_dtype(src.dtype))
    carries = torch.empty_like(values)
    # lines, pixels, and the strides of both
    along_rows, along_columns = (height, width, width, 1), (width, height, 1, width)
    passes = [(axis, lambda_ * attenuation**t) for t in range(iterations) for axis in (along_rows, along_columns)]
    if adjoint:
        passes.reverse()
    with torch.cuda.device_of(src):
        f = src
        for number, (axis, strength) in enumerate(passes):
            lines, pixels, *strides = axis
            block, length = tile_of(lines, pixels, strides[1] == 1, values.dtype)
            u = dst if number == len(passes) - 1 else values
            launch(
                solve_lines, batch * channels * triton.cdiv(lines, block), WARPS,
                f, guide, values, carries, u, channels, height * width, lines, pixels, *strides, strength, sigma,
                GUIDES=guide.shape[1], ONE_TILE=length >= pixels, BLOCK_L=block, BLOCK_P=length,
            )  # fmt: skip
            f = u
    return dst
