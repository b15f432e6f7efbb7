"""The ``benchmark`` fixture of runs on a GPU: the benchmarks as they are, timed by benchmarks/gpu/timing.py.

``python -m benchmarks.gpu`` sets :data:`RUN`, which benchmarks/conftest.py asks, and puts :class:`Plugin` in place of
pytest-benchmark's.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import fastseg
from benchmarks.gpu.timing import milliseconds

OURS = ("fastseg", "accelerate")
BACKENDS = ("triton", "cuda")


@dataclass
class Run:
    """One process of benchmarks.

    Attributes:
        device, smoke: where, and whether two rounds of each are enough.
        until: of time.monotonic(): benchmarks that would begin later are skipped, so that what was measured is kept.
        benchmarks: what was measured, as pytest-benchmark writes it.
    """

    device: str
    smoke: bool = False
    until: float = math.inf
    benchmarks: list[dict[str, Any]] = field(default_factory=list)


#: None: pytest-benchmark takes the times.
RUN: Run | None = None


class Timed:
    """What the benchmarks use of pytest-benchmark's fixture: ``pedantic``, ``extra_info`` and ``group``."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._times: dict[str | None, list[float]] = {}
        self._floors: list[float] | None = None
        self.extra_info: dict[str, Any] = {}
        self.group = ""

    def pedantic(self, function: Callable[[], object], setup: Callable[[], object] | None = None, **_: object) -> Any:
        """The call as it is chosen; :meth:`close`, which knows whose call it is, adds those of forced backends."""
        self._again, self._modes = function, (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        result = function()
        self._times[None] = milliseconds(function, self._run.device, smoke=self._run.smoke)
        if setup is not None:
            setup()
            self._floors = milliseconds(setup, self._run.device, smoke=self._run.smoke)
        return result

    def close(self) -> None:
        """Called when the benchmark has said all it knows of its row."""
        if not self._times:  # skipped
            return
        if str(self.extra_info["peer"]).startswith(OURS) and not self.extra_info.get("stereo"):
            inference, grad = self._modes
            for backend in BACKENDS:
                try:
                    with torch.inference_mode(inference), torch.set_grad_enabled(grad), fastseg.backend(backend):
                        self._times[backend] = milliseconds(self._again, self._run.device, smoke=self._run.smoke)
                except fastseg.BackendError:
                    continue
        for backend, times in self._times.items():
            info = dict(self.extra_info)
            if self._floors is not None:
                info["floor"] = statistics.median(self._floors)
            if backend is not None:
                info["peer"] += f" [{backend}]"
                info.pop("memory", None)  # measured of the call as it is chosen
            self._run.benchmarks.append({"stats": {"data": [1e-3 * t for t in times]}, "extra_info": info})


class Plugin:
    """Of pytest, for one run."""

    @pytest.fixture
    def benchmark(self) -> Iterator[Timed]:
        assert RUN is not None
        if time.monotonic() > RUN.until:
            pytest.skip("no time is left")
        timed = Timed(RUN)
        yield timed
        timed.close()
