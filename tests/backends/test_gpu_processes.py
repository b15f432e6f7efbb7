"""How tests on a GPU are run: one that loses the card, kills its process or never ends is told, and the others run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from tests.gpu import __main__ as gpu_tests
from tests.gpu import processes, summary
from tests.gpu.__main__ import PARTS, units, with_more
from tests.gpu.processes import ROOT, Outcome, Runner, Unit

#: The card is lost as torch says it where there is one.
TROUBLE = """
import os, signal, sys, time
from types import SimpleNamespace
import pytest

lost = []
def synchronize():
    if lost:
        raise RuntimeError("CUDA error: an illegal memory access\\nmore")

cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize)
sys.modules["torch"] = SimpleNamespace(cuda=cuda)

def test_first(): pass
def test_wrong(): assert 1 == 2
def test_loses_the_card(): lost.append(1)
def test_after_it(): assert not lost
def test_crashes(): os.kill(os.getpid(), signal.SIGSEGV)
def test_skipped(): pytest.skip("not here")
def test_hangs(): time.sleep(1000)
@pytest.mark.parametrize("forced", ("cuda", "triton"))
def test_last(forced): pass
def test_after_all(): pass
"""


def ran(folder: Path, text: str, *arguments: str, until: float = 120.0, seconds: float = 15.0) -> dict[str, Outcome]:
    (folder / "test_trouble_gpu.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    runner = Runner(folder / "files", seconds, time.monotonic() + until, 2, folder)
    found = runner.run([Unit("trouble", ["test_trouble_gpu.py", *arguments])])
    assert len({each.test for each in found}) == len(found)
    return {each.test.rpartition("::")[2]: each for each in found}


def test_one_trouble_hides_no_other_test(tmp_path: Path) -> None:
    found = ran(tmp_path, TROUBLE)
    outcomes = {name: each.outcome for name, each in found.items()}
    assert list(found)[-1] == "test_last[cuda]"  # of both backends, CUDA C++ comes last
    passed = ("test_first", "test_after_it", "test_last[triton]", "test_after_all", "test_last[cuda]")
    failed = ("test_wrong", "test_loses_the_card", "test_crashes", "test_hangs")
    assert outcomes == {**dict.fromkeys(passed, "passed"), **dict.fromkeys(failed, "failed"), "test_skipped": "skipped"}
    assert found["test_loses_the_card"].why == "the card is lost: CUDA error: an illegal memory access"
    assert found["test_wrong"].why == "assert 1 == 2" and "def test_wrong" in found["test_wrong"].text
    assert found["test_crashes"].why.startswith("the process ended with signal 11")
    assert found["test_hangs"].why == "ended after 15 s"
    assert found["test_last[cuda]"].unit == "trouble [cuda]" and found["test_first"].unit == "trouble"
    lines = summary.lines(list(found.values()))
    assert lines == [
        "passed: trouble [triton] 1, trouble [cuda] 1",
        "1 skipped: not here",
        "trouble: 3 passed, 4 failed, 1 skipped | test_wrong: assert 1 == 2",
        "5 passed, 4 failed, 1 skipped",
    ]
    assert "CUDA error: an illegal memory access" in summary.failures(list(found.values()))


def test_what_the_time_leaves_out_is_not_run(tmp_path: Path) -> None:
    hang = "import time\ndef test_quick(): pass\ndef test_hangs(): time.sleep(1000)\ndef test_later(): pass\n"
    found = ran(tmp_path, hang, until=15.0, seconds=100.0)
    assert {name: each.outcome for name, each in found.items()} == {
        "test_quick": "passed",
        "test_hangs": "not run",
        "test_later": "not run",
    }
    assert {each.why for each in found.values()} == {"", "no time is left"}


def test_a_process_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tests have ended: nothing is lost, and nothing is waited for."""
    monkeypatch.setattr(processes, "DYING", 0.5)
    stays = "import atexit, time\natexit.register(time.sleep, 1000)\ndef test_it(): pass\n"
    (found,) = ran(tmp_path, stays, seconds=100.0).values()
    assert found.outcome == "passed"


def test_a_file_that_cannot_be_imported_is_a_failure(tmp_path: Path) -> None:
    (broken,) = ran(tmp_path, "import nothing_of_this_name\n").values()
    assert broken.outcome == "failed" and "nothing_of_this_name" in broken.why
    (wrong,) = ran(tmp_path, "", "--no-such-option").values()
    assert wrong.outcome == "failed" and "code 4" in wrong.why


def test_parts_have_every_test_on_a_card(tmp_path: Path) -> None:
    """Once, but those that are run alone; every file that is named is there."""
    every = {part: units(part, tmp_path) for part in PARTS}
    files = {
        part: {each for unit in found for each in unit.arguments if each.endswith(".py")}
        for part, found in every.items()
    }
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "gpu").glob("test_*.py")}
    assert files["ops"] | files["families"] == here and not files["ops"] & files["families"]
    assert files["alone"] <= here and "tests/gpu/test_every_op_gpu.py" in files["alone"]
    assert files["kernels"] and all((ROOT / file).exists() for file in files["kernels"])
    names = [unit.name for unit in every["ops"]]
    assert len(set(names)) == len(names) and {"norm [triton]", "norm [cuda]", "models"} <= set(names)
    assert [unit.before[2:5] for unit in every["racecheck"]] == 3 * [["compute-sanitizer", "--tool", "racecheck"]]


def test_more_options_join_those_of_a_part() -> None:
    unit = with_more(Unit("u", ["f.py", "-k", "not a"], ["env"]), ["-x", "-k", "b or c"])
    assert unit == Unit("u", ["f.py", "-k", "(not a) and (b or c)", "-x"], ["env"])
    assert with_more(Unit("u", ["f.py"]), ["-k", "b"]) == Unit("u", ["f.py", "-k", "b"])


def test_what_a_sanitizer_found_is_a_failure(tmp_path: Path) -> None:
    said = {
        "1": "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n",
        "2": "========= COMPUTE-SANITIZER\n========= Invalid __global__ read\n========= ERROR SUMMARY: 10 errors\n",
        "3": "========= COMPUTE-SANITIZER\n",
    }
    for process, text in said.items():
        (tmp_path / f"memcheck-{process}.txt").write_text(text)
    clean, wrong, cut = gpu_tests.reports("memcheck", tmp_path)
    assert (clean.outcome, wrong.outcome, cut.outcome) == ("passed", "failed", "failed")
    assert wrong.why == "ERROR SUMMARY: 10 errors Invalid __global__ read" and "no summary" in cut.why
    (tmp_path / "racecheck-1.txt").write_text(
        "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    )
    (tmp_path / "racecheck-2.txt").write_text(
        "========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n"
    )
    assert [each.outcome for each in gpu_tests.reports("racecheck", tmp_path)] == ["passed", "failed"]
    (nothing,) = gpu_tests.reports("memcheck", tmp_path / "empty")
    assert nothing.outcome == "failed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is there")
def test_without_a_card_all_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = [unit for unit in units("families", tmp_path) if unit.name == "test_stereo_gpu"]
    monkeypatch.setattr(gpu_tests, "units", lambda part, folder: one)
    assert gpu_tests.main(["families", "--output", str(tmp_path), "-k", "agrees"]) == 0
    text = (tmp_path / "last-gpu-tests-families.txt").read_text()
    assert "skipped: torch sees no CUDA device" in capsys.readouterr().out and "test_agrees_with_the_cpu" in text
