"""docs/images/stereo_benchmark.png: error over time of stereo matchers, a panel for each pair."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.stereo_report import headline

COLUMNS = 3
OURS, OTHERS = "#1b7f5c", "#9aa5b1"
MARKERS = "osD^vP"


def draw(rows: list[Any], subtitle: str, path: Path) -> bool:
    """From rows of report.py; whether there were any of this family."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pairs: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        if row.stereo is not None and not row.huge_pages:
            pairs[row.case].append(row)
    if not pairs:
        return False
    height = len(pairs) // COLUMNS + 1  # there is room for the legend
    figure, axes = plt.subplots(height, COLUMNS, figsize=(13, 3.4 * height), squeeze=False, layout="constrained")
    looks = _looks(rows)
    for axis, (name, measured) in zip(axes.flat, pairs.items(), strict=False):
        for row in measured:
            axis.scatter(row.median, 100 * headline(row)[1], s=70, label=row.peer, **looks[row.peer])
        region, largest = headline(measured[0])[0], max(headline(row)[1] for row in measured)
        axis.set(xscale="log", xlabel="milliseconds", ylabel=f"more than a pixel off, {region} (%)")
        axis.set_ylim(0, 115 * largest)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_title(f"{name}, {measured[0].shape}", fontsize=10)
        axis.margins(x=0.15)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(pairs) :]:
        axis.set_axis_off()
    most = max(axes.flat[: len(pairs)], key=lambda axis: len(axis.collections))
    axes.flat[len(pairs)].legend(*most.get_legend_handles_labels(), loc="center", frameon=False, fontsize=10)
    figure.suptitle(f"better is lower and further to the left\n{subtitle}", fontsize=9)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
    plt.close(figure)
    return True


def _looks(rows: list[Any]) -> dict[str, dict[str, str]]:
    """A colour for ours and one for the others, and in each a marker for every method."""
    names = list(dict.fromkeys(row.peer for row in rows if row.stereo is not None))
    looks = {}
    for ours, colour in ((True, OURS), (False, OTHERS)):
        mine = [name for name in names if name.startswith("fastseg") == ours]
        looks.update({name: {"color": colour, "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(mine)})
    return looks
