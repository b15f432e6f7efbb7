"""Which backend is the fastest for each op and shape, from the rows of a run: what select.py is decided by.

The rules are those of docs/gpu.md.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.report import Row, cases, duration

_FORCED = re.compile(r"^fastseg(?P<layout> channels-last|, channels-last|)(?: \[(?P<backend>\w+)\])$")
#: What stands for torch's own ops where they were not forced.
_EAGER = {"": ("eager",), " channels-last": ("eager channels-last",), ", channels-last": ("eager, channels-last",)}
NEAR = 1.1


@dataclass(frozen=True)
class Choice:
    """One case and shape: milliseconds of each backend, the fastest, and whether p20 to p80 tell it from the next."""

    family: str
    case: str
    shape: str
    layout: str
    times: dict[str, Row]

    @property
    def ranked(self) -> list[str]:
        return sorted(self.times, key=lambda backend: self.times[backend].median)

    @property
    def best(self) -> str:
        return self.ranked[0]

    @property
    def tie(self) -> bool:
        """Then Triton stays before CUDA C++, and both before nothing."""
        first, second = (self.times[backend] for backend in self.ranked[:2])
        return second.p20 <= first.p80

    def loses(self, backend: str) -> bool:
        """By more than a tenth."""
        return backend in self.times and self.times[backend].median > NEAR * self.times[self.best].median


def choices(rows: Sequence[Row]) -> Iterator[Choice]:
    """Of every case in which two backends were timed at least."""
    for (family, case, shape, _), peers in cases([row for row in rows if not row.network]).items():
        by_layout: dict[str, dict[str, Row]] = defaultdict(dict)
        for name, row in peers.items():
            if found := _FORCED.match(name):
                by_layout[found["layout"]][found["backend"]] = row
        for layout, times in by_layout.items():
            for name in _EAGER[layout]:
                if "reference" not in times and name in peers:
                    times["reference"] = peers[name]
            if len(times) > 1:
                yield Choice(family, case, shape, layout.strip(" ,"), times)


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: the times, then for each family the order that they say, and where it should not hold."""
    found = list(choices(rows))
    backends = [name for name in ("triton", "cuda", "reference") if any(name in each.times for each in found)]
    if not found:
        return ["No case ran with two backends."]
    lines = [
        f"| case | layout | {' | '.join(backends)} | fastest | next over it |",
        f"| --- | --- | {' | '.join('---' for _ in backends)} | --- | --- |",
    ]
    for each in found:
        times = [duration(each.times[name].median) if name in each.times else "" for name in backends]
        first, second = (each.times[name].median for name in each.ranked[:2])
        best = "tie" if each.tie else each.best
        case = f"{each.family}: {each.case}, {each.shape}"
        lines.append(f"| {case} | {each.layout} | {' | '.join(times)} | {best} | {second / first:.2f} |")
    return [*lines, "", *orders(found)]


def orders(found: Sequence[Choice]) -> list[str]:
    """Rules 2 and 3. Cases with backward decide where there are some."""
    by_family: dict[str, list[Choice]] = defaultdict(list)
    for each in found:
        by_family[each.family].append(each)
    lines = []
    for family, every in by_family.items():
        deciding = [each for each in every if "backward" in each.case] or every
        wins: dict[str, float] = defaultdict(float)
        for each in deciding:
            for name in each.times:
                wins[name] += not each.loses(name) if each.tie else name == each.best
        order = sorted(wins, key=lambda name: (-wins[name], ("triton", "cuda", "reference").index(name)))
        lines.append(f"- {family}: {', '.join(f'{name} ({wins[name]:g} of {len(deciding)})' for name in order)}")
        lines += [
            f"  - {each.best} instead of {order[0]}: {each.case}, {each.shape} {each.layout}".rstrip()
            for each in every
            if each.loses(order[0])
        ]
    return lines
