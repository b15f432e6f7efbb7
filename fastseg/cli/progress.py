"""A progress bar by rich on a terminal, plain lines elsewhere. Goes to stderr: stdout keeps the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastseg.cli.errors import installed

Advance = Callable[[], None]
#: Called with the name of the stage and the share of all work that is done.
Report = Callable[[str, float], None]

_PLAIN_STEPS = 4  # lines that a log file gets for one bar


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Show ``title`` and how many of ``total`` steps are done; the block calls what it is given after each step."""
    if sys.stderr.isatty() and installed("rich"):
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _lines(title, total)


@contextmanager
def share_progress(title: str) -> Iterator[Report]:
    """Show ``title``, the stage and how much is done; the block calls what it is given after each piece of work."""
    if not (sys.stderr.isatty() and installed("rich")):
        yield _share_lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<36}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda stage, share: bar.update(task, completed=share, description=f"{title}: {stage}")


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def _lines(title: str, total: int) -> Advance:
    done = 0
    every = max(1, total // _PLAIN_STEPS)

    def advance() -> None:
        nonlocal done
        done += 1
        if done % every == 0 or done == total:
            print(f"{title}: {done} of {total}", file=sys.stderr, flush=True)

    return advance


def _share_lines(title: str) -> Report:
    shown = 0

    def report(stage: str, share: float) -> None:
        nonlocal shown
        reached = int(_PLAIN_STEPS * share + 1e-6)
        if reached > shown:
            shown = reached
            print(f"{title}: {share:.0%} ({stage})", file=sys.stderr, flush=True)

    return report
