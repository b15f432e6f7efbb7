"""What every benchmark records beside its times."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fastseg
from benchmarks.gpu import record
from fastseg.backends import availability

#: family, case, peer, the tensor whose copy is the floor, and what to run
BesideCopy = Callable[[str, str, str, Tensor, Callable[[], object]], None]
#: what to run, what makes that of ours which takes turns with it, and how often
BesideOurs = Callable[[Callable[[], object], Callable[[], Callable[[], object]], int], None]

ROUNDS = 15

_peak = 0.0


def synchronize() -> None:
    """Waits for what the GPU has been given, where there is one and no events take the time."""
    if record.RUN is None and torch.cuda.is_available():
        torch.cuda.synchronize()


def synchronized(function: Callable[[], object]) -> Callable[[], None]:
    """The function, and what it gave a GPU to do."""

    def run() -> None:
        function()
        synchronize()

    return run


def rounds_for(function: Callable[[], object], most: int = ROUNDS) -> int:
    """How often to time ``function``: for about a second, three times at least, after it ran twice.

    The first of the two may compile. There are hundreds of benchmarks, and some peers take seconds a call.
    """
    if record.RUN is not None:
        return 1  # it counts its rounds itself
    function()
    start = time.perf_counter()
    function()
    return max(3, min(most, int(1 / (time.perf_counter() - start))))


@pytest.fixture
def beside_copy(benchmark) -> BesideCopy:
    """Runs one peer of one case, and before every round of it the floor: a copy into memory that is there. On a shared
    machine a floor from another minute would say little."""

    def run(family: str, case: str, peer: str, like: Tensor, function: Callable[[], object]) -> None:
        source = like.detach()
        target, floor = torch.empty_like(source), []

        def copy() -> None:
            start = time.perf_counter()
            target.copy_(source)
            synchronize()
            floor.append(time.perf_counter() - start)

        shape = "x".join(map(str, like.shape))
        benchmark.group = f"{family} {case} {shape}"
        timed = synchronized(function)
        benchmark.pedantic(timed, setup=copy, rounds=rounds_for(timed), warmup_rounds=1)
        median = 1e3 * statistics.median(floor[1:])  # events take the place of this one
        benchmark.extra_info.update(case=case, shape=shape, peer=peer, family=family, floor=median)

    return run


@pytest.fixture
def beside_ours(benchmark) -> BesideOurs:
    """Runs one peer of a whole network, and before every round of it ours, which has run once: a round takes seconds,
    in which a shared machine changes its speed by more than what the two differ by."""

    def run(function: Callable[[], object], prepare: Callable[[], Callable[[], object]], rounds: int) -> None:
        if record.RUN is not None:  # a card is nobody else's
            benchmark.pedantic(function, rounds=rounds)
            return
        ours, times = synchronized(prepare()), []

        def timed() -> None:
            start = time.perf_counter()
            ours()
            times.append(time.perf_counter() - start)

        ours()
        benchmark.pedantic(function, setup=timed, rounds=rounds)
        benchmark.extra_info["beside"] = 1e3 * statistics.median(times)

    return run


@pytest.fixture(autouse=True)
def measured_peak() -> None:
    """The clock of a shared machine changes by the minute: the best of what is measured before each benchmark."""
    global _peak
    if availability.COMPILED and record.RUN is None:
        _peak = max(_peak, availability.COMPILED.measure_peak(torch.get_num_threads()))


@pytest.hookimpl(optionalhook=True)  # runs on a GPU go without pytest-benchmark
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["threads"] = torch.get_num_threads()
    machine_info["torch"] = torch.__version__
    machine_info["fastseg"] = fastseg.__version__
    machine_info["capability"] = availability.COMPILED.cpu_capability() if availability.COMPILED else None
    machine_info["gflops"] = round(_peak / 1e9)
    machine_info["huge_pages"] = os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"
    machine_info["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
