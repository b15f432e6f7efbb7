"""The section on stereo of docs/benchmarks.md: time beside error for each pair, and what each stage takes."""

from __future__ import annotations

from typing import Any

THRESHOLDS = ("0.5", "1", "2", "4")
REGIONS = ("nonocc", "all", "disc")


def section(rows: list[Any]) -> list[str]:
    """Lines of Markdown from rows of report.py; none where there are none of this family."""
    rows = [row for row in rows if row.stereo is not None and not row.huge_pages]
    if not rows:
        return []
    return [
        "",
        "## stereo",
        "",
        "![error over time](images/stereo_benchmark.png)",
        "",
        "Shares of the pixels whose truth is known, and their mean error in pixels; where a pair has masks, also the",
        "shares of nonocc / all / disc. Every map is dense: what OpenCV leaves open is filled from the row. Its time",
        "is without that, without turning colours around and without widening the images, which it needs to see the",
        "left border. Its settings are in `benchmarks/stereo_peers.py`.",
        "",
        *_scores(rows),
        "",
        "### stereo: milliseconds of each stage",
        "",
        *_stages(rows),
    ]


def headline(row: Any) -> tuple[str, float]:
    """The region that a row is judged by, nonocc where there is one, and its share of errors above a pixel."""
    regions = row.stereo["regions"]
    name = "nonocc" if "nonocc" in regions else "known"
    return name, regions[name]["bad"]["1"]


def _scores(rows: list[Any]) -> list[str]:
    titles = ["pair", "method", "time", *(f"bad {t}" for t in THRESHOLDS), "average", "bad 1, nonocc / all / disc"]
    cells = []
    for row in sorted(rows, key=_order(rows)):
        regions = row.stereo["regions"]
        known = regions["known"]
        shares = [_percent(known["bad"][threshold]) for threshold in THRESHOLDS]
        by_region = [_percent(regions[name]["bad"]["1"]) if name in regions else "-" for name in REGIONS]
        masked = " / ".join(by_region) if set(by_region) != {"-"} else ""
        pair = f"{row.case}, {row.shape}"
        cells.append([pair, row.peer, f"{row.median:.1f} ms", *shares, f"{known['average']:.3f}", masked])
    return _table(titles, cells)


def _stages(rows: list[Any]) -> list[str]:
    timed = [row for row in sorted(rows, key=_order(rows)) if row.stereo["seconds"]]
    fullest_first = sorted((row.stereo["seconds"] for row in timed), key=len, reverse=True)
    stages = list(dict.fromkeys(stage for seconds in fullest_first for stage in seconds))
    cells = []
    for row in timed:
        seconds = row.stereo["seconds"]
        cells.append([row.case, row.peer, *(f"{1e3 * seconds[s]:.1f}" if s in seconds else "" for s in stages)])
    return _table(["pair", "preset", *stages], cells)


def _order(rows: list[Any]) -> Any:
    """Pairs as they were run; in each the quickest first."""
    cases = list(dict.fromkeys(row.case for row in rows))
    return lambda row: (cases.index(row.case), row.median)


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
