"""Turns the JSON of pytest-benchmark into results/<device>.json, docs/benchmarks.md, its pictures and the tables of the
README, these only from a whole run.

Usage: python benchmarks/report.py RESULT.json [RESULT.json ...]

Several files of one machine are put side by side: torch's allocator with small pages and with huge pages.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script

from benchmarks import networks_report, readme, stereo_picture, stereo_report, wls_picture
from benchmarks.turns import OURS, ours_in, ratio

ROOT = Path(__file__).resolve().parents[1]
PANELS = 3  # of a family in the picture: its first cases; the page has all


@dataclass(frozen=True)
class Row:
    """One peer in one case. Times in milliseconds; the floor is the copy of the tensor, timed between the rounds."""

    family: str
    case: str
    shape: str
    peer: str
    huge_pages: bool
    p20: float
    median: float
    p80: float
    rounds: int
    floor: float | None
    gflop: float | None  # operations, a multiply-add counts two
    stereo: dict[str, Any] | None = None  # scores of each region, and seconds of each stage
    network: bool = False  # one of the papers, which have a section of their own
    memory: int | None = None  # bytes at the peak
    beside: float | None = None  # ours, run in turns with this peer


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__)
        return 2
    runs = [json.loads(Path(path).read_text()) for path in paths]
    rows = [row for run in runs for row in rows_of(run)]
    machine = machine_of(runs)
    results = ROOT / "benchmarks" / "results" / f"{slug(machine)}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    write(results, json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    picture = ROOT / "docs" / "images" / "benchmarks.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, machine, picture)
    page = ROOT / "docs" / "benchmarks.md"
    write(page, markdown(rows, machine))
    pictures = {picture.with_name("wls.png"): wls_picture, picture.with_name("stereo_benchmark.png"): stereo_picture}
    drawn = [path for path, module in pictures.items() if module.draw(rows, subtitle(machine), path)]
    front, tables = ROOT / "README.md", readme.tables(rows, machine)
    write(front, readme.filled(front.read_text(), tables))
    for path in (results, page, picture, *drawn):
        print(path.relative_to(ROOT))
    print("README.md" if tables else "README.md is as it was: its tables are those of a whole run on a CPU")
    return 0


def rows_of(run: dict[str, Any]) -> list[Row]:
    rows = []
    for benchmark in run["benchmarks"]:
        times = sorted(1e3 * t for t in benchmark["stats"]["data"])
        at = lambda q, times=times: times[min(int(q * len(times)), len(times) - 1)]  # noqa: E731
        info = benchmark["extra_info"]
        huge = bool(run["machine_info"].get("huge_pages"))
        rows.append(
            Row(
                info["family"],
                info["case"],
                info["shape"],
                info["peer"],
                huge,
                at(0.2),
                at(0.5),
                at(0.8),
                len(times),
                info.get("floor"),
                info.get("gflop"),
                info.get("stereo"),
                info.get("network", False),
                info.get("memory"),
                info.get("beside"),
            )
        )
    return rows


def machine_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """That of the first run, and what was measured in each."""
    run = runs[0]
    info = run["machine_info"]
    return {
        "device": info["device"],
        "processor": re.sub(r"\((R|TM)\)| Processor$", "", info["cpu"].get("brand_raw", info["machine"])),
        "threads": info["threads"],
        "capability": info["capability"],
        "GFLOP/s of float32 multiply-adds in registers": info["gflops"],
        "python": info["python_version"],
        "torch": info["torch"],
        "fastseg": info["fastseg"],
        "commit": ", ".join(dict.fromkeys(map(commit_of, runs))),
        "date": run["datetime"][:10],
    }


def commit_of(run: dict[str, Any]) -> str:
    """What pytest-benchmark found when it ran."""
    known = run.get("commit_info", {})
    return str(known.get("id") or "unknown")[:7] + ("-dirty" if known.get("dirty") else "")


def commit() -> str:
    """Of the checkout; "unknown" in a copy of it without git."""
    command = ["git", "describe", "--always", "--dirty"]
    if shutil.which(command[0]) is None:
        return "unknown"
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"


def slug(machine: dict[str, Any]) -> str:
    name = (
        machine["device"] if machine["device"] != "cpu" else f"cpu-{machine['processor']}-{machine['threads']}-threads"
    )
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cases(rows: list[Row]) -> dict[tuple[str, str, str, bool], dict[str, Row]]:
    grouped: dict[tuple[str, str, str, bool], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        grouped[row.family, row.case, row.shape, row.huge_pages][row.peer] = row
    return grouped


HEAD = [
    "# Benchmarks",
    "",
    "Written by `make bench`. Every peer ran in the same run on the same machine; medians, with the 20th and 80th",
    "percentile. Absolute times of a shared CPU mean little: read the ratios. The floor is `y.copy_(x)` of the",
    "tensor into memory that is there, timed between the rounds of each peer. *Times fastseg* is the peer's median",
    "over that of the fastest fastseg row; whole networks take turns with one of ours, and that ratio is of the",
    "turns. Every call is timed for about a second, three times at least; SciPy's solvers of the WLS system once. The",
    "weighted median in PyTorch takes minutes at 1080x1920: it runs at 375x450 only.",
]
PICTURES = ["![time over the floor](images/benchmarks.png)"]


def markdown(
    rows: list[Row], machine: dict[str, Any], head: Sequence[str] = HEAD, pictures: Sequence[str] = PICTURES
) -> str:
    lines = [*head, "", *(f"- {name}: {value}" for name, value in machine.items()), "", *pictures]
    for (family, case, shape, huge), peers in cases(
        [row for row in rows if row.stereo is None and not row.network]
    ).items():
        pages = ", torch with huge pages (`THP_MEM_ALLOC_ENABLE=1`)" if huge else ""
        lines += [
            "",
            f"## {family}: {case}, {shape}{pages}",
            "",
            "| peer | median | p20 | p80 | over the floor | GFLOP/s | times fastseg |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        best = ours_in(peers)
        for row in sorted(peers.values(), key=lambda row: row.median):
            over = f"{row.median / row.floor:.2f}" if row.floor else ""
            times_ours = f"{ratio(row, best):.2f}" if best else ""
            rate = f"{1e3 * row.gflop / row.median:.0f}" if row.gflop else ""
            times = " | ".join(duration(t) for t in (row.median, row.p20, row.p80))
            lines.append(f"| {row.peer} | {times} | {over} | {rate} | {times_ours} |")
    lines += networks_report.section(rows)
    lines += stereo_report.section(rows)
    return "\n".join(lines) + "\n"


def duration(milliseconds: float) -> str:
    return f"{1e3 * milliseconds:.1f} us" if milliseconds < 0.1 else f"{milliseconds:.2f} ms"


def subtitle(machine: dict[str, Any]) -> str:
    """What a picture says of where its numbers come from."""
    return (
        f"{machine['processor'] if machine['device'] == 'cpu' else machine['device']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, fastseg {machine['commit']}, {machine['date']}"
    )


def draw(rows: list[Row], machine: dict[str, Any], path: Path) -> None:
    """Bars: time over the floor, a panel for each of the first cases of a family that have one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    of_family: dict[str, list[tuple[str, dict[str, Row]]]] = defaultdict(list)
    for (family, case, shape, huge), peers in cases(rows).items():
        if not huge and all(row.floor for row in peers.values()):
            of_family[family].append((f"{family}, {shape}\n{case}", peers))
    panels = [panel for family in of_family.values() for panel in family[:PANELS]]
    if not panels:
        return
    columns = 3
    height = (len(panels) + columns - 1) // columns
    figure, axes = plt.subplots(height, columns, figsize=(13, 2.7 * height), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, peers) in zip(axes.flat, panels, strict=False):
        ordered = sorted(peers.values(), key=lambda row: row.median, reverse=True)
        values = [row.median / (row.floor or 1.0) for row in ordered]
        colours = ["#1b7f5c" if row.peer.startswith(OURS) else "#9aa5b1" for row in ordered]
        bars = axis.barh([row.peer for row in ordered], values, color=colours)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axis.axvline(1, color="#c0392b", linewidth=1, linestyle="--")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("time over y.copy_(x)", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(subtitle(machine), fontsize=9)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
    plt.close(figure)


def write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
