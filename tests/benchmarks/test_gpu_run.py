"""The benchmarks for a GPU, on the CPU: two rounds of a few, the files they write, and what the roofline shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import aims, record, roofline, timing
from benchmarks.report import ROOT, Row
from fastseg.backends import select
from fastseg.ops import instance_norm_act

pytest.importorskip("matplotlib")


def test_a_smoke_run_writes_its_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--smoke", "--output", str(tmp_path)]
    done = subprocess.run(
        [*command, "--root", str(tmp_path), "--commit", "c0ffee"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (results,) = (tmp_path / "benchmarks" / "results").iterdir()
    written = json.loads(results.read_text())
    assert written["machine"]["copy GB/s"] > 0 and written["machine"]["device"] == "cpu"
    assert written["machine"]["commit"] == "c0ffee"
    peers = {"fastseg", "fastseg channels-last"}
    forced = {f"{peer} [reference]" for peer in peers}
    assert {row["peer"] for row in written["rows"]} == {*peers, *forced, "eager"}
    assert written["failures"] == {} and json.loads((tmp_path / "smoke-gpu.json").read_text())["failures"] == {}
    families = {"norm", "depthwise", "soft_mask_attention", "attention_gate", "cbam", "loss", "stereo on the device"}
    assert {row["family"] for row in written["rows"]} == families
    assert all(row["median"] > 0 and row["rounds"] == 2 for row in written["rows"])
    page = (tmp_path / "docs" / "benchmarks-gpu.md").read_text()
    assert "## stereo on the device: winner_takes_all, 4x24x32" in page
    assert page.count("not measured") == len(aims.AIMS) and "| triton |" not in page
    pictures = {path.stem for path in (tmp_path / "docs" / "images").iterdir()}
    assert pictures == {"benchmarks_gpu", "roofline_gpu"} and "images/roofline_gpu.png" in page


def test_no_device_no_run() -> None:
    for options in ((), ("--device", "cpu")):
        if not options and torch.cuda.is_available():
            continue
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", *options], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2 and "--smoke" in done.stderr


def call_of(peer: str, **info: Any) -> tuple[record.Timed, list[tuple[str | None, str, bool]]]:
    """A row that is measured, and of each call: what was forced, what was chosen, and whether autograd looked on."""
    x = torch.ones(1, 2, 3, 4, requires_grad=True)
    seen: list[tuple[str | None, str, bool]] = []

    def call() -> None:
        seen.append(
            (select.forced(), select.choose("instance_norm_act", x).backend, instance_norm_act(x).requires_grad)
        )

    timed = record.Timed(record.Run("cpu", smoke=True))
    timed.extra_info.update(peer=peer, case="c", family="norm", floor=-1.0, **info)
    with torch.no_grad():
        timed.pedantic(call, setup=lambda: x.clone(), rounds=5)
    return timed, seen


def rows_of(timed: record.Timed) -> list[dict[str, Any]]:
    timed.close()
    return [each["extra_info"] for each in timed._run.benchmarks]


def test_forced_backends_have_rows_of_their_own() -> None:
    """In the mode of autograd that the benchmark ran in; a backend that refuses has none, nor has a peer."""
    timed, seen = call_of("fastseg")
    infos = rows_of(timed)
    assert [info["peer"] for info in infos] == ["fastseg", "fastseg [reference]"]
    assert all(info["floor"] > 0 for info in infos)
    assert {forced for forced, *_ in seen} == {None, "reference"} and not any(grad for *_, grad in seen)
    assert [info["peer"] for info in rows_of(call_of("eager")[0])] == ["eager"]
    assert (
        len(rows_of(call_of("fastseg", stereo={})[0])) == 2 and len(rows_of(call_of("fastseg", stereo={1: 2})[0])) == 1
    )


def test_in_networks_a_backend_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not forced, for their other ops may not have it."""
    monkeypatch.setattr(record, "BACKENDS", ("reference", "cuda"))
    before = dict(select.CANDIDATES)
    with record.preferring("reference"):
        assert select.choose("instance_norm_act", torch.ones(1, 2, 3)).backend == "reference"
    assert before == select.CANDIDATES
    timed, seen = call_of("fastseg", network=True, memory=7)
    infos = rows_of(timed)
    assert [info["peer"] for info in infos] == ["fastseg", "fastseg [cuda]"]
    assert infos[0]["memory"] == 7 and infos[1]["memory"] != 7
    assert {forced for forced, *_ in seen} == {None} and before == select.CANDIDATES


def test_what_a_forced_backend_breaks_leaves_the_other_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "BACKENDS", ("triton", "reference"))
    timed = record.Timed(record.Run("cpu", smoke=True, file=str(tmp_path / "rows")))

    def call() -> None:
        if select.forced() == "triton":
            raise RuntimeError("no such kernel image")

    timed.extra_info.update(peer="fastseg", family="norm", case="c")
    timed.pedantic(call)
    with pytest.raises(RuntimeError, match="no such kernel image"):
        timed.close()
    peers = [json.loads(line)["extra_info"]["peer"] for line in (tmp_path / "rows").read_text().splitlines()]
    assert peers == ["fastseg", "fastseg [reference]"]


def test_a_process_takes_over_its_run() -> None:
    run = record.Run("cpu", True, 12.5, "rows")
    code = "from benchmarks.gpu import record; print(record.RUN)"
    environment = {**os.environ, **run.as_environment()}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(run), done.stderr


def test_what_would_begin_too_late_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = record.Plugin.benchmark.__wrapped__
    monkeypatch.setattr(record, "RUN", record.Run("cpu", smoke=True, until=0.0))
    with pytest.raises(pytest.skip.Exception, match="no time is left"):
        next(fixture(record.Plugin()))
    monkeypatch.setattr(record, "RUN", record.Run("cpu", smoke=True))
    assert isinstance(next(fixture(record.Plugin())), record.Timed)


def test_what_compiles_for_minutes_comes_last() -> None:
    peers = ("torch.compile max-autotune", "torch.compile", "eager", "torch.compile channels-last", "fastseg")
    items = [SimpleNamespace(name=f"test_forward[{peer}]") for peer in peers]
    record.Plugin().pytest_collection_modifyitems(items)
    assert [item.name for item in items] == [f"test_forward[{peers[i]}]" for i in (2, 4, 1, 3, 0)]


def test_rounds() -> None:
    """Of a microsecond, a millisecond, and slow ones."""
    assert [timing.rounds_of(once) for once in (0.001, 1.0, 10.0, 300.0, 5000.0)] == [200, 200, 20, 6, 3]


def row(peer: str, floor: float | None, gflop: float | None) -> Row:
    return Row("f", "c", "s", peer, False, 1.0, 2.0, 3.0, 4, floor, gflop)


def test_roofline(tmp_path: Path) -> None:
    rows = [row("fastseg", 0.5, 4.0), row("eager", 0.5, None), row("eager", None, 4.0)]
    machine = {"copy GB/s": 1000.0, "float32 TFLOP/s": 50.0, "TF32 TFLOP/s": 300.0, "bfloat16 TFLOP/s": 700.0}
    ((intensity, rate, which),) = roofline.points(rows, machine["copy GB/s"])
    # 0.5 ms at 1000 GB/s are 0.5 GB; 4 GFLOP of them are 8 a byte, and 4 GFLOP in 2 ms are 2 TFLOP/s.
    assert intensity == pytest.approx(8) and rate == pytest.approx(2) and which.peer == "fastseg"
    assert not roofline.draw(rows[1:], machine, "", tmp_path / "none.png") and not list(tmp_path.iterdir())
    assert roofline.draw(rows, machine, "", tmp_path / "roofline.png")
    assert [path.name for path in tmp_path.iterdir()] == ["roofline.png"]
