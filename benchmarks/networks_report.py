"""The section on the papers' networks of docs/benchmarks.md: time and memory beside plain torch."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from benchmarks.turns import ratio

OURS = "fastseg"


def section(rows: list[Any]) -> list[str]:
    """Lines of Markdown from rows of report.py; none where there are none of networks."""
    rows = [row for row in rows if row.network and not row.huge_pages]
    if not rows:
        return []
    peers = [peer for peer in dict.fromkeys(row.peer for row in rows) if peer != OURS]
    by_case: dict[tuple[str, str, str], dict[str, Any]] = defaultdict(dict)
    for row in rows:
        by_case[row.case, row.family, row.shape][row.peer] = row
    lines = [
        "",
        "## Networks of the papers",
        "",
        "The network of `fastseg.models.create`, and the same network with the same weights of plain torch layers. A",
        "training step is forward, the loss of the paper, backward and Adam. Memory is the peak beyond what was held",
        "before. Of each peer: its time and its memory over those of fastseg, above 1 where fastseg needs less.",
        "On CPUs each peer takes turns with fastseg, and its time is compared with that of those turns.",
        "torch.compile is of plain torch, in the layout that fastseg takes; the cascade is not compiled, because what",
        "its second stage sees depends on what the first one finds.",
    ]
    for case in dict.fromkeys(row.case for row in rows):
        titles = ["network", "input", OURS, "memory", *(f"{peer}: time, memory" for peer in peers)]
        lines += ["", f"### {case}", "", _line(titles), _line(["---"] * len(titles))]
        for (of_case, name, shape), found in by_case.items():
            if of_case == case and OURS in found:
                ours = found[OURS]
                ratios = [_ratios(found[peer], ours) if peer in found else "" for peer in peers]
                lines.append(_line([name, shape, f"{ours.median:.0f} ms", _megabytes(ours.memory), *ratios]))
    return lines


def _ratios(row: Any, ours: Any) -> str:
    memory = f"{row.memory / ours.memory:.2f}" if row.memory and ours.memory else "-"
    return f"{ratio(row, ours):.2f}, {memory}"


def _megabytes(memory: int | None) -> str:
    return "-" if memory is None else f"{memory / 2**20:.0f} MB"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
