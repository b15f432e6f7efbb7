"""What of many tests fits a screen: a line for each unit in which something failed, and the rest in few."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence

from tests.gpu.processes import Outcome

WIDTH = 200
MOST_REASONS = 8


def lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Units that passed side by side; one line for each other one, with its first failure; why tests were skipped."""
    by_unit: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_unit[outcome.unit].append(outcome)
    counts = {unit: Counter(each.outcome for each in found) for unit, found in by_unit.items()}
    bad = [unit for unit in by_unit if counts[unit]["failed"] or counts[unit]["not run"]]
    good = [f"{unit} {counts[unit]['passed']}" for unit in by_unit if unit not in bad and counts[unit]["passed"]]
    skipped = Counter(each.why for each in outcomes if each.outcome == "skipped")
    found = textwrap.wrap(f"passed: {', '.join(good)}", WIDTH, subsequent_indent="  ") if good else []
    found += [f"{count} skipped: {why}"[:WIDTH] for why, count in skipped.most_common(MOST_REASONS)]
    found += [_line(unit, counts[unit], by_unit[unit]) for unit in bad]
    return [*found, _count(Counter(each.outcome for each in outcomes))]


def failures(outcomes: Sequence[Outcome]) -> str:
    """Every failure in full, and every skipped test with its reason."""
    parts = [
        f"== {each.test}\n{each.why}\n\n{each.text}\n" for each in outcomes if each.outcome in ("failed", "not run")
    ]
    parts += [f"-- skipped: {each.test}: {each.why}" for each in outcomes if each.outcome == "skipped"]
    return "\n".join([*lines(outcomes), "", *parts, ""])


def _line(unit: str, counts: Counter[str], outcomes: Sequence[Outcome]) -> str:
    first = next(each for kind in ("failed", "not run") for each in outcomes if each.outcome == kind)
    test = first.test.rpartition("::")[2]
    return f"{unit}: {_count(counts)} | {test}: {first.why}"[:WIDTH]


def _count(counts: Counter[str]) -> str:
    shown = [kind for kind in ("passed", "failed", "skipped", "not run") if counts[kind]]
    return ", ".join(f"{counts[kind]} {kind}" for kind in shown) or "no tests"
