"""How long the stages of a piece of work take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """Adds up the seconds of each stage.

    On a GPU, where nobody watches the progress, events tell: the host goes on to launch the next stage, and waits once,
    when the seconds are read.

    Args:
        device: where the stages run.
        steps: how many pieces of work there will be.
        on_progress: called after each, when it is done, with the stage's name and the share that is done.
    """

    def __init__(self, device: torch.device, steps: int, on_progress: Callable[[str, float], None] | None) -> None:
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._device, self._steps, self._done, self._on_progress = device, steps, 0, on_progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._device.type == "cuda" and self._on_progress is None:
            begin = self._event()
            yield
            self._events.append((name, begin, self._event()))
            return
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._add(name, time.perf_counter() - start)
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(name, min(1.0, self._done / self._steps))

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage, in the order in which they first ran. Waits for those that still run."""
        events, self._events = self._events, []
        if events:
            events[-1][2].synchronize()
        for name, begin, end in events:
            self._add(name, 1e-3 * begin.elapsed_time(end))
        return self._seconds

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
