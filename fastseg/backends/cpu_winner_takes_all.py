"""Launches the CPU kernel of winner takes all. No checks here: see fastseg/ops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.images import dense_rows, images
from fastseg.backends.memory import new_empty


def winner_takes_all(
    costs: Tensor, previous: Sequence[Tensor], slices: int, near: Tensor | None, reach: int
) -> tuple[Tensor, ...]:
    costs = dense_rows(costs)
    batch, count, height, width = costs.shape
    compute = torch.promote_types(costs.dtype, torch.float32)
    result = [new_empty((batch, height, width), dtype) for dtype in (torch.int32, *5 * (compute,))]
    previous = [t.contiguous() for t in previous]
    near = None if near is None else near.contiguous()
    _C.winner_takes_all(
        batch,
        count,
        height * width,
        images(costs),
        slices,
        tuple(t.data_ptr() for t in previous) if previous else None,
        0 if near is None else near.data_ptr(),
        reach,
        tuple(t.data_ptr() for t in result),
        torch.get_num_threads(),
    )
    return tuple(result)
