"""The benchmarks for a GPU, on the CPU: two rounds of a few, the files they write, and what the roofline shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import record, roofline
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
    assert {row["peer"] for row in written["rows"]} == {"fastseg", "eager"}
    assert {row["family"] for row in written["rows"]} == {"norm", "stereo on the device"}
    assert all(row["median"] > 0 and row["rounds"] == 2 for row in written["rows"])
    page = (tmp_path / "docs" / "benchmarks-gpu.md").read_text()
    assert "## stereo on the device: winner_takes_all, 4x24x32" in page and "roofline" not in page
    assert (tmp_path / "docs" / "images" / "benchmarks_gpu.png").exists()


def test_no_device_no_run() -> None:
    for options in ((), ("--device", "cpu")):
        if not options and torch.cuda.is_available():
            continue
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", *options], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2 and "--smoke" in done.stderr


def test_forced_backends_have_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the mode of autograd that the benchmark ran in; a backend that refuses has none, nor has a peer."""
    monkeypatch.setattr(record, "BACKENDS", ("reference", "cuda"))
    run = record.Run("cpu", smoke=True)
    x = torch.ones(1, 2, 3, 4, requires_grad=True)
    seen: list[tuple[str | None, bool]] = []

    def call() -> None:
        seen.append((select.forced(), instance_norm_act(x).requires_grad))

    for peer in ("fastseg", "eager"):
        timed = record.Timed(run)
        with torch.no_grad():
            timed.pedantic(call, setup=lambda: x.clone(), rounds=5)
        timed.extra_info.update(peer=peer, case="c", floor=-1.0, memory=7)
        timed.close()
    assert set(seen) == {(None, False), ("reference", False)}
    infos = [each["extra_info"] for each in run.benchmarks]
    assert [info["peer"] for info in infos] == ["fastseg", "fastseg [reference]", "eager"]
    assert all(info["floor"] > 0 for info in infos) and ["memory" in info for info in infos] == [True, False, True]


def test_what_would_begin_too_late_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = record.Plugin.benchmark.__wrapped__
    monkeypatch.setattr(record, "RUN", record.Run("cpu", smoke=True, until=0.0))
    with pytest.raises(pytest.skip.Exception, match="no time is left"):
        next(fixture(record.Plugin()))
    monkeypatch.setattr(record, "RUN", record.Run("cpu", smoke=True))
    assert isinstance(next(fixture(record.Plugin())), record.Timed)


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
