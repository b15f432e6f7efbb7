"""Reference of winner takes all: one slice after another, each pixel's least and what is around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# The arguments of these functions are those of fastseg.ops.


def winner_takes_all(
    costs: Tensor, *, previous: tuple[Any, ...] | None = None, near: Tensor | None = None, reach: int = 0
) -> tuple[Any, ...]:
    """As a tuple, in the order of :class:`fastseg.ops.Winner`; cost is NaN where one of the costs is."""
    compute = torch.promote_types(costs.dtype, torch.float32)
    if previous:
        index, cost, before, after, second, last, slices = previous
    else:
        shape = (*costs.shape[:-3], *costs.shape[-2:])
        index = costs.new_full(shape, -1, dtype=torch.int32)
        cost = before = after = second = last = costs.new_full(shape, torch.inf, dtype=compute)
        slices = 0
    nan = torch.isnan(cost)
    for d, plane in enumerate(costs.unbind(-3), slices):
        c = plane.to(compute)
        follows = (index == d - 1) & (index >= 0)
        among = torch.ones_like(follows) if near is None else (d - near.long()).abs() <= reach
        wins = among & (c < cost)
        # The least of the candidates before slice d - 1. Where that is the least of all, second has those before d - 2.
        reaches = before < second if near is None else (before < second) & ((d - 2 - near.long()).abs() <= reach)
        earlier = torch.where(follows, torch.where(reaches, before, second), cost)
        lower = among & ~follows & (c < second)
        second = torch.where(wins, earlier, torch.where(lower, c, second))
        after = torch.where(wins, torch.inf, torch.where(follows, c, after))
        before = torch.where(wins, last, before)
        index = torch.where(wins, d, index)
        cost = torch.where(wins, c, cost)
        last, nan = c, nan | torch.isnan(c)
    last = last.clone(memory_format=torch.contiguous_format)  # not a view of costs
    return index, torch.where(nan, torch.nan, cost), before, after, second, last, slices + costs.shape[-3]
