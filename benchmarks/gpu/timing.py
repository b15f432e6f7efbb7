"""Time on a GPU: events around a call whose inputs are in no cache, and the same loop on a CPU for smoke runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import lru_cache

import torch

SECONDS = 0.2  # of rounds for each peer, where that gives from LEAST to MOST of them
LEAST, MOST = 10, 200


@lru_cache(1)
def _others(device: str) -> torch.Tensor:
    """Larger than the caches: written before each round, so that nobody finds its inputs there."""
    size = 4 * torch.cuda.get_device_properties(device).L2_cache_size if device == "cuda" else 1 << 20
    return torch.empty(max(size, 1 << 20), dtype=torch.uint8, device=device)


def milliseconds(function: Callable[[], object], device: str, *, smoke: bool = False) -> list[float]:
    """Of each round, after two that compile and choose. The host is ahead of the GPU: it enqueues the call while the
    write of other memory runs, so that launches cost nothing that a network does not pay."""
    function()
    once = _round(function, device)
    rounds = 2 if smoke else max(LEAST, min(MOST, int(1e3 * SECONDS / max(once, 1e-3))))
    return [_round(function, device) for _ in range(rounds)]


def median(function: Callable[[], object], device: str, *, smoke: bool = False) -> float:
    return statistics.median(milliseconds(function, device, smoke=smoke))


def _round(function: Callable[[], object], device: str) -> float:
    _others(device).fill_(1)
    if device != "cuda":
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
