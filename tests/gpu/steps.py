"""A plugin of pytest for one process of :mod:`tests.gpu.processes`: writes each step to a file, and leaves where the
card is lost.

After an illegal access, or an assertion of a kernel, every call of CUDA in the process fails: the tests that follow
would say nothing of themselves. The next process goes on after the one that lost the card.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Exit code where the card is lost; nothing is run down that would ask it once more.
LOST = 86


def card_error() -> str | None:
    """What went wrong on the card so far, where nothing more can run on it in this process."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return first_line(str(error))
    return None


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def unit_of(item: pytest.Item) -> str:
    """What of the summary a test belongs to: an op with its backend, or a file of tests, with the backend too."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if "run" in parameters:
        return "{} [{}]".format(*parameters["run"])
    stem = item.path.stem.removeprefix("test_").removesuffix("_gpu")
    told = [parameters.get(name) for name in ("family", "forced", "kernel")]
    return " ".join([stem, *(f"[{each}]" for each in told if isinstance(each, str))])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--steps", type=Path, required=True, help="file that each step is written to, a line of JSON each")
    parser.addoption("--done", type=Path, required=True, help="file of the tests, a JSON list, that are left out")
    parser.addoption("--of", action="append", help="only tests of this unit; may be given again")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Steps(config.getoption("--steps"), card_error))


@pytest.hookimpl(trylast=True)  # after -k, -m and whoever sorts
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    done, of = set(json.loads(config.getoption("--done").read_text())), config.getoption("--of")
    chosen = [item for item in items if item.nodeid not in done and (not of or unit_of(item) in of)]
    # Of a file with both backends: where all of CUDA C++ loses the card, Triton's tests have been run.
    items[:] = sorted(chosen, key=lambda item: unit_of(item).endswith("[cuda]"))


class _Steps:
    def __init__(self, path: Path, lost: Callable[[], str | None]) -> None:
        self._path, self._lost = path, lost
        self._begun = 0.0
        self._found: dict[str, Any] = {}

    def _write(self, event: str, **about: Any) -> None:
        with self._path.open("a") as file:  # closed each time: the process may end at any moment
            file.write(json.dumps({"event": event, **about}) + "\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write("broken", test=report.nodeid, why=_why(report), text=report.longreprtext)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write("collected", tests=[[item.nodeid, unit_of(item)] for item in session.items])

    def pytest_unconfigure(self) -> None:
        self._write("finished")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._begun = time.monotonic()
        self._found = {"outcome": "passed", "why": "", "text": ""}
        self._write("begin", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self._found["outcome"] != "failed":
            self._found = {"outcome": "failed", "why": _why(report), "text": report.longreprtext}
        elif report.skipped and isinstance(report.longrepr, tuple):
            self._found = {"outcome": "skipped", "why": report.longrepr[2].removeprefix("Skipped: "), "text": ""}

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        why = self._lost()
        if why is not None:
            self._found["why"] = f"the card is lost: {self._found['why'] or why}"
            self._found["outcome"] = "failed"
        self._write("end", test=nodeid, seconds=time.monotonic() - self._begun, lost=why is not None, **self._found)
        if why is not None:
            os._exit(LOST)


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return first_line(crash.message if crash is not None else report.longreprtext.splitlines()[-1])
