"""Cost volumes with ties and infinity, and the winner that is looked for in all slices at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastseg.ops import Winner

PLANES = Winner._fields[:-1]


def volume(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, device: str = "cpu") -> Tensor:
    """Few different costs, so that many are equal; a quarter of them infinite where the dtype has that."""
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randint(0, 9, shape, generator=generator).to(dtype)
    if dtype.is_floating_point:
        costs = (costs - 4) / 8
        costs[torch.rand(shape, generator=generator) < 0.25] = torch.inf
    return costs.to(device)


def centres(slices: int, *shape: int, dtype: torch.dtype = torch.int32, device: str = "cpu") -> Tensor:
    """Slices to look near, some of them not there."""
    generator = torch.Generator().manual_seed(slices)
    return torch.randint(-4, slices + 4, shape, generator=generator, dtype=dtype).to(device)


def winner_of(costs: Tensor, near: Tensor | None = None, reach: int = 0) -> Winner:
    """The definition, slice by slice number and not one after another."""
    wide = costs.to(torch.promote_types(costs.dtype, torch.float32))
    number = torch.arange(wide.shape[-3], device=costs.device)[:, None, None]
    among = torch.ones_like(wide, dtype=torch.bool)
    if near is not None:
        among &= (number - near.long().unsqueeze(-3)).abs() <= reach
    candidates = torch.where(among, wide, torch.inf)
    cost = candidates.amin(-3)
    first = (candidates == cost.unsqueeze(-3)).int().argmax(-3, keepdim=True)
    index = torch.where(cost.isinf() & (cost > 0), -1, first.squeeze(-3))
    around = torch.nn.functional.pad(wide, (0, 0, 0, 0, 1, 1), value=torch.inf)
    before, after = (around.gather(-3, first + step).squeeze(-3) for step in (0, 2))
    nobody = index == -1
    second = torch.where((number - index.unsqueeze(-3)).abs() <= 1, torch.inf, candidates).amin(-3)
    return Winner(
        index.int(), cost, before.where(~nobody, torch.inf), after.where(~nobody, torch.inf), second,
        wide[..., -1, :, :], wide.shape[-3],
    )  # fmt: skip


def in_chunks(function: Callable[..., Winner], costs: Tensor, size: int, **arguments: object) -> Winner:
    winner = None
    for first in range(0, costs.shape[-3], size):
        winner = function(costs[..., first : first + size, :, :], previous=winner, **arguments)
    assert winner is not None
    return winner


def assert_same(actual: Winner, expected: Winner) -> None:
    """The same bits: of zeros the sign too."""
    assert actual.slices == expected.slices
    for name, ours, theirs in zip(PLANES, actual, expected, strict=False):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name
        bits = torch.int64 if ours.dtype == torch.float64 else torch.int32
        assert torch.equal(ours.view(bits), theirs.contiguous().view(bits)), name
