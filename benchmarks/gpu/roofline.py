"""The roofline: operations a second over operations a byte, below what a copy and the multipliers were measured at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import OURS, Row

ROOFS = {"float32 TFLOP/s": "float32", "TF32 TFLOP/s": "TF32", "bfloat16 TFLOP/s": "bfloat16"}


def points(rows: Sequence[Row], bandwidth: float) -> list[tuple[float, float, Row]]:
    """(operations a byte, TFLOP/s, row) of each row that says its operations and its floor.

    The bytes are those of the copy that is the floor: each input read once and each output written once, for ops whose
    output is as large as the input.
    """
    return [
        (1e3 * row.gflop / (row.floor * bandwidth), row.gflop / row.median, row)
        for row in rows
        if row.gflop and row.floor
    ]


def draw(rows: Sequence[Row], machine: dict[str, Any], subtitle: str, path: Path) -> bool:
    """Nothing where no row says its operations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bandwidth = machine["copy GB/s"]
    found = points(rows, bandwidth)
    if not found:
        return False
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for ours, colour, label in ((False, "#9aa5b1", "peers"), (True, "#1b7f5c", "fastseg")):
        chosen = [(x, y) for x, y, row in found if row.peer.startswith(OURS) is ours]
        if chosen:
            axis.scatter(*zip(*chosen, strict=True), s=18, color=colour, label=label, zorder=3)
    widest = max(x for x, _, _ in found)
    for name, label in ROOFS.items():
        ridge = 1e3 * machine[name] / bandwidth
        ends = sorted({min(x for x, _, _ in found) / 2, ridge, 4 * max(widest, ridge)})
        axis.plot(ends, [min(machine[name], 1e-3 * bandwidth * x) for x in ends], color="#c0392b", linewidth=1)
        axis.annotate(label, (ends[-1], machine[name]), ha="right", va="bottom", fontsize=8)
    axis.set(xscale="log", yscale="log", xlabel="operations a byte of the copy", ylabel="TFLOP/s", title=subtitle)
    axis.title.set_fontsize(8)
    axis.legend(fontsize=8)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
    plt.close(figure)
    return True
