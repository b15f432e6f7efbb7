"""Launches the Triton kernel of winner takes all.

Bytes to move: the volume once, and 24 a pixel written (44 with float64 costs), as many more read where slices came
before, 4 more with near. A program takes some pixels through all slices in registers. No atomics: results are
deterministic, and the same bits as on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from fastseg.backends.images import dense_rows
from fastseg.backends.triton.tensors import compute_dtype, launch
from fastseg.backends.triton.winner_takes_all_kernels import take_slices

WARPS = 4
BLOCK = 256  # two pixels a thread: images have few pixels for the many threads of a card


def winner_takes_all(
    costs: Tensor, previous: Sequence[Tensor], slices: int, near: Tensor | None, reach: int
) -> tuple[Tensor, ...]:
    costs = dense_rows(costs)
    batch, count, height, width = costs.shape
    result = [
        costs.new_empty((batch, height, width), dtype=dtype)
        for dtype in (torch.int32, *5 * (compute_dtype(costs.dtype),))
    ]
    state = [t.contiguous() for t in previous] if previous else result  # not read then
    with torch.cuda.device_of(costs):
        launch(
            take_slices, batch * triton.cdiv(height * width, BLOCK), WARPS,
            costs, costs.stride(0), costs.stride(1), count, height * width, slices,
            *state, result[0] if near is None else near.contiguous(), reach, *result,
            RESUMES=bool(previous), NEAR=near is not None, BLOCK=BLOCK,
        )  # fmt: skip
    return tuple(result)
