"""The winner of a cost volume as it is found today: the minimum, lookups beside it, and the minimum of the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fastseg.ops import Winner, winner_takes_all

Function = Callable[[Tensor], object]
CHUNK = 16


def fastseg(costs: Tensor) -> Winner:
    return winner_takes_all(costs)


def in_chunks(costs: Tensor) -> Winner | None:
    """As where a volume is made a part at a time."""
    winner = None
    for chunk in costs.split(CHUNK):
        winner = winner_takes_all(chunk, previous=winner)
    return winner


def eager(costs: Tensor) -> tuple[Tensor, ...]:
    """index, cost, before, after and second."""
    index, cost, before, after = minimum(costs)
    number = torch.arange(len(costs)).view(-1, 1, 1)
    return index, cost, before, after, costs.masked_fill((number - index).abs() <= 1, torch.inf).amin(0)


def minimum(costs: Tensor) -> tuple[Tensor, ...]:
    """All but second."""
    cost, index = costs.min(0)
    least = index.unsqueeze(0)
    before = costs.gather(0, (least - 1).clamp(min=0))[0].where(index > 0, torch.inf)
    after = costs.gather(0, (least + 1).clamp(max=len(costs) - 1))[0].where(index < len(costs) - 1, torch.inf)
    return index, cost, before, after


def compiled() -> Function:
    torch._dynamo.reset()
    return torch.compile(eager, fullgraph=True)


def in_numpy(costs: Tensor) -> tuple[np.ndarray, ...]:
    volume = costs.numpy()
    least = volume.argmin(0, keepdims=True)
    cost = np.take_along_axis(volume, least, 0)
    edges = np.full((1, *volume.shape[1:]), np.inf, volume.dtype)
    last = len(volume) - 1
    before = np.where(least > 0, np.take_along_axis(volume, np.maximum(least - 1, 0), 0), edges)
    after = np.where(least < last, np.take_along_axis(volume, np.minimum(least + 1, last), 0), edges)
    rest = np.where(np.abs(np.arange(len(volume)).reshape(-1, 1, 1) - least) <= 1, edges, volume)
    return least[0], cost[0], before[0], after[0], rest.min(0)


#: name -> how the function is made
WINNER_PEERS: dict[str, Callable[[], Function]] = {
    "fastseg": lambda: fastseg,
    "fastseg, 16 slices at a time": lambda: in_chunks,
    "eager": lambda: eager,
    "eager, without second": lambda: minimum,
    "torch.compile": compiled,
    "NumPy": lambda: in_numpy,
}
