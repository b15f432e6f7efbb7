"""How long the stages of a piece of work take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """Adds up the seconds of each stage; waits for the GPU where there is one.

    Args:
        device: where the stages run.
        steps: how many pieces of work there will be.
        on_progress: called after each, with the stage's name and the share that is done.
    """

    def __init__(self, device: torch.device, steps: int, on_progress: Callable[[str, float], None] | None) -> None:
        self.seconds: dict[str, float] = {}
        self._device, self._steps, self._done, self._on_progress = device, steps, 0, on_progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(name, min(1.0, self._done / self._steps))
