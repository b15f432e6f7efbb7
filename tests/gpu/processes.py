"""Tests in processes of their own, so that one kernel that loses the card, crashes or never ends hides nothing else.

A unit is some tests that share a process. Where one of them loses the card (see :mod:`tests.gpu.steps`), kills the
process or takes longer than it may, a new process goes on after it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Processes of a unit: each that follows costs its start, and tells less.
MOST_STARTS = 8
#: Seconds for a killed process, which the driver may hold, and for one that has run its tests: pools of compilers may
#: hold it.
DYING = 30.0


#: A session of its own outlives a runner that is killed, and would go on to keep the card busy.
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


@dataclass(frozen=True)
class Unit:
    """Tests that share a process: pytest's arguments, and what comes before Python in the command."""

    name: str
    arguments: Sequence[str]
    before: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """Of one test: "passed", "failed", "skipped" or "not run"."""

    test: str
    unit: str
    outcome: str
    why: str = ""
    text: str = ""
    seconds: float = 0.0


@dataclass
class Runner:
    """Runs units.

    Attributes:
        folder: for the files of the processes.
        seconds: how long a test may take, and the start of a process.
        until: of time.monotonic(); what has not ended then is killed, and what has not begun is "not run".
        workers: how many processes at once.
        root: pytest's, and where processes run.
        environment: of the processes, beside this one's.
    """

    folder: Path
    seconds: float
    until: float
    workers: int = 1
    root: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, units: Sequence[Unit]) -> list[Outcome]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._until_told(), ThreadPoolExecutor(self.workers) as pool:
            return [outcome for found in pool.map(self._run_unit, range(len(units)), units) for outcome in found]

    @contextmanager
    def _until_told(self) -> Iterator[None]:
        """Whoever ends this process gets what there is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for number in before:
                signal.signal(number, lambda *_: self._stopped.set())
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _late(self) -> bool:
        return self._stopped.is_set() or time.monotonic() > self.until

    def _run_unit(self, number: int, unit: Unit) -> list[Outcome]:
        tests: dict[str, str] = {}  # and the line that each is counted in
        found: dict[str, Outcome] = {}
        for start in range(MOST_STARTS):
            steps, why = self._run_process(f"{number}-{start}", unit, list(found))
            if not start:
                found.update({each.test: each for each in _broken(steps, unit)})
            collected = next((step["tests"] for step in steps if step["event"] == "collected"), None)
            tests = tests or dict(collected or [])
            ended = {step["test"]: step for step in steps if step["event"] == "end"}
            found.update({test: _outcome(step, tests[test]) for test, step in ended.items()})
            begun = [step["test"] for step in steps if step["event"] == "begin"]
            culprit = begun[-1] if begun and begun[-1] not in ended else None
            if culprit is not None:
                found[culprit] = Outcome(culprit, tests[culprit], "not run" if self._late() else "failed", why)
            if collected is None and not found:
                found[unit.name] = Outcome(unit.name, unit.name, "not run" if self._late() else "failed", why)
            lost = any(step["lost"] for step in ended.values())
            if self._late() or not set(tests) - set(found) or not (lost or culprit):
                break
        else:
            why = f"{MOST_STARTS} processes ended before their tests"
        return [*found.values(), *(Outcome(t, line, "not run", why) for t, line in tests.items() if t not in found)]

    def _run_process(self, name: str, unit: Unit, done: list[str]) -> tuple[list[dict[str, Any]], str]:
        """Its steps, and how it ended."""
        steps, leave_out, log = (self.folder / f"{name}.{kind}" for kind in ("steps", "done", "log"))
        steps.write_text("")
        leave_out.write_text(json.dumps(done))
        command = [
            *DIES_WITH_US,
            *unit.before,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "tests.gpu.steps",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--steps", str(steps), "--done", str(leave_out), "--continue-on-collection-errors"]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, **self.environment}
        if self._late():
            return [], "no time is left"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, *unit.arguments],
                cwd=self.root,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # to be killed with what it starts
            )
            try:
                why = self._watch(process, steps)
            finally:
                _kill(process)
        if not why:
            last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
            how = f"signal {-process.returncode}" if process.returncode < 0 else f"code {process.returncode}"
            why = f"the process ended with {how}: {''.join(last)[:200]}"
        return lines_of(steps), why

    def _watch(self, process: subprocess.Popen[bytes], steps: Path) -> str:
        """Until it ends by itself ("") or must be ended, and why."""
        size, since, finished = 0, time.monotonic(), False
        while process.poll() is None:
            if steps.stat().st_size != size:
                size, since = steps.stat().st_size, time.monotonic()
                finished = any(step["event"] == "finished" for step in lines_of(steps)[-1:])
            if finished and time.monotonic() - since > DYING:
                return ""
            if self._late():
                return "no time is left"
            if time.monotonic() - since > self.seconds:
                return f"ended after {self.seconds:.0f} s"
            time.sleep(0.05)
        return ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """And its children, which may live longer than it does."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(DYING)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} does not end", file=sys.stderr)


def lines_of(steps: Path) -> list[dict[str, Any]]:
    """Of JSON, whole ones: the last may be cut."""
    *lines, _ = steps.read_text().split("\n")
    return [json.loads(line) for line in lines]


def _broken(steps: list[dict[str, Any]], unit: Unit) -> list[Outcome]:
    broken = [step for step in steps if step["event"] == "broken"]
    return [Outcome(step["test"], unit.name, "failed", step["why"], step["text"]) for step in broken]


def _outcome(step: dict[str, Any], unit: str) -> Outcome:
    return Outcome(step["test"], unit, step["outcome"], step["why"], step["text"], step["seconds"])
