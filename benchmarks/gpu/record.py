"""The ``benchmark`` fixture of runs on a GPU: the benchmarks as they are, timed by benchmarks/gpu/timing.py.

A process of ``python -m benchmarks.gpu`` has a :class:`Run`, which benchmarks/conftest.py asks, and :class:`Plugin` in
place of pytest-benchmark's (benchmarks/gpu/plugin.py).
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import fastseg
from benchmarks.gpu.timing import milliseconds, others
from fastseg.backends import select
from fastseg.cli.memory import PeakMemory

OURS = ("fastseg", "accelerate")
#: Also forced: kernels where there are two, and what torch's own ops take, which is the choice that is left.
BACKENDS = ("triton", "cuda", "reference")
#: In plain torch some of them take minutes a call, and of the others it is a peer.
NO_REFERENCE = ("stereo on the device",)
VARIABLE = "FASTSEG_GPU_RUN"


@dataclass
class Run:
    """One process of benchmarks.

    Attributes:
        device, smoke: where, and whether two rounds of each are enough.
        until: of time.time(): benchmarks that would begin later are skipped.
        file: gets a line of JSON for each row as soon as it is measured; whatever comes after may end the process.
        benchmarks: what was measured, as pytest-benchmark writes it.
    """

    device: str
    smoke: bool = False
    until: float = math.inf
    file: str | None = None
    benchmarks: list[dict[str, Any]] = field(default_factory=list)

    def add(self, times: list[float], info: dict[str, Any]) -> None:
        self.benchmarks.append({"stats": {"data": [1e-3 * t for t in times]}, "extra_info": info})
        if self.file is not None:
            with Path(self.file).open("a") as file:
                file.write(json.dumps(self.benchmarks[-1]) + "\n")

    def as_environment(self) -> dict[str, str]:
        """Of the process that is to have this run."""
        return {VARIABLE: json.dumps({name: value for name, value in asdict(self).items() if name != "benchmarks"})}


#: None: pytest-benchmark takes the times.
RUN: Run | None = Run(**json.loads(os.environ[VARIABLE])) if VARIABLE in os.environ else None


class Timed:
    """What the benchmarks use of pytest-benchmark's fixture: ``pedantic``, ``extra_info`` and ``group``."""

    def __init__(self, run: Run) -> None:
        self._run = run
        others(run.device)  # so that it is in nobody's peak of memory
        self._times: list[float] = []
        self._floors: list[float] | None = None
        self.extra_info: dict[str, Any] = {}
        self.group = ""

    def pedantic(self, function: Callable[[], object], setup: Callable[[], object] | None = None, **_: object) -> Any:
        """The call as it is chosen; :meth:`close`, which knows whose call it is, adds those of forced backends."""
        self._again, self._modes = function, (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        result = function()
        self._times = self._measured(function)
        if setup is not None:
            setup()
            self._floors = self._measured(setup)
        return result

    def _measured(self, function: Callable[[], object]) -> list[float]:
        """By the host's clock where the row says so, and for whole networks."""
        host = bool(self.extra_info.get("network") or self.extra_info.get("host_clock"))
        return milliseconds(function, self._run.device, host=host, smoke=self._run.smoke)

    def close(self) -> None:
        """Called when the benchmark has said all it knows of its row."""
        if not self._times:  # skipped
            return
        info = dict(self.extra_info)
        if self._floors is not None:
            info["floor"] = statistics.median(self._floors)
        self._run.add(self._times, info)
        ours = str(info["peer"]).startswith(OURS) and not info.get("stereo")
        errors = [self._forced(backend, info) for backend in (BACKENDS if ours else ())]
        for error in filter(None, errors):
            raise error

    def _forced(self, backend: str, info: dict[str, Any]) -> Exception | None:
        """One more row; what went wrong, after which other backends may still be timed."""
        if backend == "reference" and (info.get("network") or info["family"] in NO_REFERENCE):
            return None
        how: Callable[[str], AbstractContextManager[None]] = preferring if info.get("network") else fastseg.backend
        inference, grad = self._modes
        device = torch.device(self._run.device)
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad), how(backend):
                self._again()  # compiles, outside of what is measured
                peak = PeakMemory(device) if "memory" in info else None
                times = self._measured(self._again)
        except fastseg.BackendError:
            return None
        except Exception as error:
            return error
        row = {**info, "peer": f"{info['peer']} [{backend}]"}
        if peak is not None:
            row["memory"] = peak.read()
        self._run.add(times, row)
        return None


@contextmanager
def preferring(backend: str) -> Iterator[None]:
    """The backend comes first in every op that has it; a network has others too, which a forced one would refuse."""
    before = dict(select.CANDIDATES)
    try:
        for op, candidates in before.items():
            select.CANDIDATES[op] = tuple(sorted(candidates, key=lambda candidate: candidate.backend != backend))
        yield
    finally:
        select.CANDIDATES.update(before)


class Plugin:
    """Of pytest, for one run."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """What compiles for minutes comes last, where time may have run out."""
        items.sort(key=compiles_for)

    @pytest.fixture
    def benchmark(self) -> Iterator[Timed]:
        assert RUN is not None
        if time.time() > RUN.until:
            pytest.skip("no time is left")
        timed = Timed(RUN)
        yield timed
        timed.close()


def compiles_for(item: pytest.Item) -> int:
    """0: no more than Triton's kernels; 1: by torch.compile; 2: with its search."""
    return ("torch.compile" in item.name) + ("max-autotune" in item.name)
