"""``fastseg bench``: which folder it takes, what it runs there, and what it says where there are no benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastseg.cli.main import main

pytest.importorskip("pytest_benchmark")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # In a worker of pytest-xdist, pytest-benchmark switches itself off, in the runs that are started here too.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    folder = tmp_path / "checkout" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "test_norm.py").write_text(
        "def test_fast(benchmark):\n    benchmark.pedantic(lambda: None, rounds=2)\n"
        "def test_slow(benchmark):\n    benchmark.pedantic(lambda: None, rounds=2)\n"
    )
    (folder / "report.py").write_text("import sys\nprint('report of', sys.argv[1])\n")
    return folder.parent


def test_runs_the_benchmarks_and_the_report(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = checkout / "results.json"
    assert main(["bench", "--directory", str(checkout), "-k", "fast", "-o", str(results)]) == 0
    assert f"report of {results}" in capfd.readouterr().out
    assert [entry["name"] for entry in json.loads(results.read_text())["benchmarks"]] == ["test_fast"]


def test_huge_pages_are_a_run_of_their_own(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (checkout / "benchmarks" / "test_norm.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.large\n"
        "def test_pages(benchmark):\n"
        "    benchmark.extra_info['huge'] = os.environ.get('THP_MEM_ALLOC_ENABLE')\n"
        "    benchmark.pedantic(lambda: None, rounds=1)\n"
        "def test_other(benchmark):\n    benchmark.pedantic(lambda: None, rounds=1)\n"
    )
    results = checkout / "results.json"
    assert main(["bench", "--directory", str(checkout), "-o", str(results), "--huge-pages"]) == 0
    (entry,) = json.loads((checkout / "results.huge_pages.json").read_text())["benchmarks"]
    assert entry["name"] == "test_pages" and entry["extra_info"]["huge"] == "1"
    assert len(json.loads(results.read_text())["benchmarks"]) == 2


def test_without_a_report(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (checkout / "benchmarks" / "report.py").unlink()
    assert main(["bench", "--directory", str(checkout)]) == 0
    assert "there is no report; the timings are in" in capfd.readouterr().out


def test_a_failing_benchmark_fails_the_command(checkout: Path) -> None:
    (checkout / "benchmarks" / "test_norm.py").write_text("def test_fast(benchmark):\n    assert False\n")
    assert main(["bench", "--directory", str(checkout)]) == 1


def test_no_benchmarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "give a checkout with --directory" in error and error.count("\n") == 1
