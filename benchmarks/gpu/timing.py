"""Time on a GPU: events around a call whose inputs are in no cache, and the same loop on a CPU for smoke runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import lru_cache

import torch

SECONDS = 0.2  # of rounds for each peer, where that gives from LEAST to MOST of them
LEAST, MOST = 10, 200
LONGEST, FEWEST = 2.0, 3  # of slow calls: so many seconds, but so many rounds
WARM = 3  # rounds that no one looks at: an idle card is slow at first
#: Of torch.cuda._sleep: about a millisecond, at the clock of a card at work.
CYCLES = 2_000_000
#: Milliseconds that a call may take the host for the card to be kept waiting for it.
MOST_AHEAD = 10.0


@lru_cache(1)
def others(device: str) -> torch.Tensor:
    """Larger than the caches: read before each round, so that nobody finds its inputs there. Not written, for the
    caches would write it back while the call runs."""
    size = 4 * torch.cuda.get_device_properties(device).L2_cache_size if device == "cuda" else 1 << 20
    return torch.zeros(max(size, 1 << 20) // 4, device=device)


def milliseconds(
    function: Callable[[], object], device: str, *, host: bool = False, smoke: bool = False
) -> list[float]:
    """Of each round, after one that compiles and chooses.

    ``host``: by the host's clock, until the card has done all; for whole networks and pipelines, and for what runs on
    the CPU. By the device's events otherwise: the host is ahead, for it enqueues the call while the card sleeps, so
    that gaps between launches are not in the time of a short call. A call that keeps the host for longer than
    MOST_AHEAD is timed with its gaps, and so is one that waits for the card.
    """
    function()
    if host or device != "cuda":
        once = _wall(function, device)
        return [_wall(function, device) for _ in range(2 if smoke else rounds_of(once))]
    ahead = _called(function)
    cycles = int(CYCLES * (2 * ahead + 0.1)) if ahead < MOST_AHEAD else 0
    rounds = 2 if smoke else rounds_of(_round(function, device, cycles))
    return [_round(function, device, cycles) for _ in range(WARM + rounds)][WARM:]


def rounds_of(once: float) -> int:
    """How many, where one takes ``once`` milliseconds."""
    most = max(FEWEST, min(LEAST, int(1e3 * LONGEST / max(once, 1e-3))))
    return max(most, min(MOST, int(1e3 * SECONDS / max(once, 1e-3))))


def median(function: Callable[[], object], device: str, *, smoke: bool = False) -> float:
    return statistics.median(milliseconds(function, device, smoke=smoke))


def _wall(function: Callable[[], object], device: str) -> float:
    others(device).sum()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def _called(function: Callable[[], object]) -> float:
    """Milliseconds until the call comes back to the host."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    taken = 1e3 * (time.perf_counter() - start)
    torch.cuda.synchronize()
    return taken


def _round(function: Callable[[], object], device: str, cycles: int) -> float:
    others(device).sum()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if cycles:
        torch.cuda._sleep(cycles)
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
