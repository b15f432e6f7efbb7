"""The clock of stages: on a GPU the host waits once, unless somebody watches the progress."""

from __future__ import annotations

import pytest
import torch

from fastseg.clock import StageClock


class Event:
    """A CUDA event on a device where each one is a second after the last."""

    recorded = waited = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        Event.recorded += 1
        self.at = Event.recorded

    def synchronize(self) -> None:
        Event.waited += 1

    def elapsed_time(self, end: Event) -> float:
        return 1000.0 * (end.at - self.at)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the host did that waits for all of the device."""
    waits: list[str] = []
    Event.recorded = Event.waited = 0
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waits.append("synchronize"))
    return waits


def run(clock: StageClock) -> None:
    for name in ("one", "two", "one"):
        with clock.stage(name):
            pass


def test_events_of_all_stages_are_waited_for_once(device: list[str]) -> None:
    clock = StageClock(torch.device("cuda"), 3, None)
    run(clock)
    assert not device and Event.waited == 0
    assert clock.seconds == {"one": 2.0, "two": 1.0}
    assert clock.seconds == {"one": 2.0, "two": 1.0}  # nothing is added twice
    assert not device and Event.waited == 1


def test_progress_is_told_when_a_stage_is_done(device: list[str]) -> None:
    seen: list[tuple[str, float]] = []
    clock = StageClock(torch.device("cuda"), 3, lambda name, share: seen.append((name, len(device) / 3)))
    run(clock)
    assert seen == [("one", 1 / 3), ("two", 2 / 3), ("one", 1.0)]
    assert list(clock.seconds) == ["one", "two"] and Event.recorded == 0


def test_cpu_needs_no_events() -> None:
    clock = StageClock(torch.device("cpu"), 3, None)
    run(clock)
    assert list(clock.seconds) == ["one", "two"] and Event.recorded == 0
