"""The report of the benchmarks, from results that are made up: tables, the section on stereo and its picture."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import networks_report, readme, report, stereo_picture, stereo_report, turns

pytest.importorskip("matplotlib")


def benchmark(milliseconds: list[float], **info: Any) -> dict[str, Any]:
    return {"stats": {"data": [1e-3 * time for time in milliseconds]}, "extra_info": info}


def stereo(pair: str, peer: str, milliseconds: list[float], bad: float, **seconds: float) -> dict[str, Any]:
    """A pair with masks but for "plain"; every share is a multiple of ``bad``."""
    factors = {"known": 1.0} if pair == "plain" else {"known": 1.0, "nonocc": 0.5, "all": 2.0, "disc": 3.0}
    regions = {
        name: {"bad": {"0.5": 2 * f * bad, "1": f * bad, "2": f * bad / 2, "4": f * bad / 4}, "average": 10 * f * bad}
        for name, f in factors.items()
    }
    scores = {"regions": regions, "seconds": seconds}
    return benchmark(milliseconds, family="stereo", case=pair, shape="3x4, 5 disparities", peer=peer, stereo=scores)


def network(name: str, case: str, peer: str, milliseconds: list[float], memory: int | None) -> dict[str, Any]:
    return benchmark(milliseconds, family=name, case=case, shape="1x2", peer=peer, network=True, memory=memory)


RUN: dict[str, Any] = {
    "machine_info": {},
    "benchmarks": [
        benchmark([2, 1, 4], family="norm", case="plain norm", shape="8", peer="fastseg", floor=0.5),
        stereo("masked", "fastseg fast", [30, 20, 40], 0.08, costs=0.02, fill=0.001),
        stereo("masked", "OpenCV", [7, 9, 8], 0.1),
        stereo("plain", "fastseg fast", [50, 50, 50], 0.04, costs=0.04),
        stereo("plain", "fastseg paper", [90, 90, 90], 0.03, costs=0.04, refine=0.05),
        network("unet", "inference", "fastseg", [10, 20, 30], 2**20),
        network("unet", "inference", "eager", [30, 50, 40], 3 * 2**20),
        network("unet", "inference", "torch.compile", [10, 10, 10], None),
        network("unet", "training step", "eager", [80, 80, 80], 2**20),
        network("unet", "training step", "fastseg", [40, 40, 40], 2**22),
        network("msfen", "inference", "fastseg", [8, 8, 8], None),
    ],
}
MACHINE = {"device": "cpu", "processor": "P", "threads": 1, "torch": "2", "fastseg": "0", "commit": "c", "date": "d"}


def test_stereo_section() -> None:
    rows = report.rows_of(RUN)
    section = stereo_report.section(rows)
    tables = [line for line in section if line.startswith("|")]
    assert tables == [
        "| pair | method | time | bad 0.5 | bad 1 | bad 2 | bad 4 | average | bad 1, nonocc / all / disc |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| masked, 3x4, 5 disparities | OpenCV | 8.0 ms | 20.00 % | 10.00 % | 5.00 % | 2.50 % | 1.000 | "
        "5.00 % / 20.00 % / 30.00 % |",
        "| masked, 3x4, 5 disparities | fastseg fast | 30.0 ms | 16.00 % | 8.00 % | 4.00 % | 2.00 % | 0.800 | "
        "4.00 % / 16.00 % / 24.00 % |",
        "| plain, 3x4, 5 disparities | fastseg fast | 50.0 ms | 8.00 % | 4.00 % | 2.00 % | 1.00 % | 0.400 |  |",
        "| plain, 3x4, 5 disparities | fastseg paper | 90.0 ms | 6.00 % | 3.00 % | 1.50 % | 0.75 % | 0.300 |  |",
        "| pair | preset | costs | fill | refine |",
        "| --- | --- | --- | --- | --- |",
        "| masked | fastseg fast | 20.0 | 1.0 |  |",
        "| plain | fastseg fast | 40.0 |  |  |",
        "| plain | fastseg paper | 40.0 |  | 50.0 |",
    ]
    assert stereo_report.headline(rows[1]) == ("nonocc", 0.04)
    assert stereo_report.headline(rows[3]) == ("known", 0.04)


def test_networks_section() -> None:
    section = networks_report.section(report.rows_of(RUN))
    assert [line for line in section if line.startswith(("|", "###"))] == [
        "### inference",
        "| network | input | fastseg | memory | eager: time, memory | torch.compile: time, memory |",
        "| --- | --- | --- | --- | --- | --- |",
        "| unet | 1x2 | 20 ms | 1 MB | 2.00, 3.00 | 0.50, - |",
        "| msfen | 1x2 | 8 ms | - |  |  |",
        "### training step",
        "| network | input | fastseg | memory | eager: time, memory | torch.compile: time, memory |",
        "| --- | --- | --- | --- | --- | --- |",
        "| unet | 1x2 | 40 ms | 4 MB | 2.00, 0.25 |  |",
    ]


def test_peers_that_took_turns_are_compared_with_those_turns() -> None:
    """The machine was half as fast when the second peer and the second of ours ran."""
    where = {"family": "net", "case": "inference", "shape": "1"}
    run = {
        "machine_info": {},
        "benchmarks": [
            benchmark([10], **where, peer="accelerate"),
            benchmark([15], **where, peer="stock", beside=10.0),
            benchmark([30], **where, peer="compiled", beside=20.0),
            benchmark([16], **where, peer="accelerate channels-last", beside=20.0),
            network("unet", "inference", "fastseg", [10], None),
            network("unet", "inference", "eager", [30], None),
        ],
    }
    run["benchmarks"][-1]["extra_info"]["beside"] = 20.0
    rows = report.rows_of(run)
    anchor, stock, compiled, other = rows[:4]
    assert [turns.ratio(row, anchor) for row in (anchor, stock, compiled)] == [1.0, 1.5, 1.5]
    assert turns.ours_in({row.peer: row for row in rows[:4]}) is other
    page = report.markdown(rows, MACHINE)
    assert "| stock | 15.00 ms | 15.00 ms | 15.00 ms |  |  | 1.88 |" in page
    assert "| accelerate channels-last | 16.00 ms | 16.00 ms | 16.00 ms |  |  | 1.00 |" in page
    assert "| unet | 1x2 | 10 ms | - | 1.50, - |" in networks_report.section(rows)


def test_the_page_has_each_family_once() -> None:
    page = report.markdown(report.rows_of(RUN), MACHINE)
    titles = [line for line in page.splitlines() if line.startswith("#")]
    assert titles == [
        "# Benchmarks",
        "## norm: plain norm, 8",
        "## Networks of the papers",
        "### inference",
        "### training step",
        "## stereo",
        "### stereo: milliseconds of each stage",
    ]
    without = report.rows_of({**RUN, "benchmarks": RUN["benchmarks"][:1]})
    page = report.markdown(without, MACHINE)
    assert "stereo" not in page and "Networks" not in page


def measured(line: readme.Line) -> list[dict[str, Any]]:
    where = {"family": line.family, "case": line.case, "shape": line.shape}
    peers = {"fastseg": 20, "fastseg channels-last": 2, "eager": 41, "eager channels-last": 5, "OpenCV": 30}
    return [benchmark([milliseconds], **where, peer=peer) for peer, milliseconds in peers.items()]


def test_readme_tables() -> None:
    pipelines = [
        stereo(pair, peer, [milliseconds], bad)
        for pair in readme.PIPELINES
        for peer, milliseconds, bad in (
            ("OpenCV", 12, 0.082), ("fastseg accurate", 1234, 0.02), ("fastseg fast", 8, 0.1), ("fastseg paper", 9, 1)
        )
    ]  # fmt: skip
    lines = [*readme.CNN, *readme.STEREO]
    benchmarks = [each for line in lines for each in measured(line)] + pipelines
    benchmarks.append(
        benchmark([1e3], family="norm", case="forward", shape="1x32x128x128x128", peer="torch.compile, x")
    )
    rows = report.rows_of({"machine_info": {}, "benchmarks": benchmarks})
    written = readme.tables(rows, MACHINE)
    assert written[0] == "P, 1 threads, float32, torch 2, medians of one run"
    assert "| depthwise conv 3D k3, 1x32x64^3, forward | 2.0 ms | 5.0 ms (2.5x) | 41 ms (20x) |" in written
    norm = next(line for line in written if line.startswith("| instance norm"))
    assert norm.endswith("| 2.0 ms | 5.0 ms (2.5x) | 41 ms (20x), torch.compile 1.0 s (500x) |")
    assert next(line for line in written if line.startswith("| exact WLS")).endswith(
        "| 20 ms | eager channels-last 5.0 ms (0.2x), OpenCV 30 ms (1.5x), eager 41 ms (2.0x) |"
    )
    assert written[-1] == "| the same on teddy | fast 8.0 ms, 5.0 %; accurate 1.2 s, 1.0 % | OpenCV 12 ms, 4.1 % |"
    text = (report.ROOT / "README.md").read_text()
    assert "\n".join(written) in readme.filled(text, written)


@pytest.mark.parametrize("left", ("ours", "others", "one line"))
def test_a_partial_run_leaves_the_readme(left: str) -> None:
    benchmarks = [each for line in (*readme.CNN, *readme.STEREO) for each in measured(line)]
    benchmarks += [stereo(pair, peer, [1], 0.1) for pair in readme.PIPELINES for peer in ("fastseg fast", "OpenCV")]
    whole = {"machine_info": {}, "benchmarks": benchmarks}
    assert readme.tables(report.rows_of(whole), MACHINE) != []
    kept = {
        "ours": [each for each in benchmarks if each["extra_info"]["peer"].startswith("fastseg")],
        "others": [each for each in benchmarks if not each["extra_info"]["peer"].startswith("fastseg")],
        "one line": benchmarks[5:],
    }
    assert readme.tables(report.rows_of({**whole, "benchmarks": kept[left]}), MACHINE) == []
    text = (report.ROOT / "README.md").read_text()
    assert readme.filled(text, []) == text


def test_the_machine_and_what_was_measured() -> None:
    info = {"device": "cpu", "cpu": {"brand_raw": "Some(R) Core(TM) Processor"}, "machine": "m", "threads": 4}
    info |= {"capability": "c", "gflops": 5, "python_version": "3", "torch": "2", "fastseg": "0"}
    runs = [
        {"machine_info": info, "datetime": "2026-01-02T03", "commit_info": {"id": id, "dirty": dirty}}
        for id, dirty in (("0123456789", False), ("0123456789", False), ("abcdefgh", True))
    ]
    machine = report.machine_of(runs)
    assert (machine["processor"], machine["commit"], machine["date"]) == (
        "Some Core", "0123456, abcdefg-dirty", "2026-01-02"
    )  # fmt: skip
    assert report.slug(machine) == "cpu-some-core-4-threads"


def test_stereo_picture(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "stereo.png"
    rows = report.rows_of(RUN)
    assert not stereo_picture.draw(rows[:1], "no pair", path)
    assert list(tmp_path.iterdir()) == []
    assert stereo_picture.draw(rows, "some machine", path)
    assert list(tmp_path.iterdir()) == [path]
    assert len(image.open(path).convert("RGB").getcolors(1 << 24)) > 10


@pytest.mark.parametrize("name", sorted(path.stem for path in (report.ROOT / "benchmarks").glob("test_*.py")))
def test_every_benchmark_can_be_imported(name: str) -> None:
    """They run by hand only, so that nothing else sees a helper that moved away."""
    assert any(each.startswith("test_") for each in vars(importlib.import_module(f"benchmarks.{name}")))
