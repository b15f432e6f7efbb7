"""What a report of GPU benchmarks says of made-up rows: aims, the choice of kernels, and the README's table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import aims, choices, readme
from benchmarks.report import ROOT, Row

pytest.importorskip("matplotlib")

MACHINE = {"device": "Card", "torch": "2", "float32 TFLOP/s": 50.0}


def row(
    peer: str,
    median: float,
    case: str = "forward, float32",
    shape: str = "1x32x128x128x128",
    family: str = "norm",
    floor: float | None = 1.0,
    gflop: float | None = None,
    **more: object,
) -> Row:
    return Row(family, case, shape, peer, False, 0.95 * median, median, 1.05 * median, 9, floor, gflop, **more)


def verdicts(rows: list[Row], why: dict[str, str] | None = None) -> dict[str, list[str]]:
    """Of what was measured: reached, by whom, verdict and reason, by the aim's name."""
    lines = [line.strip("| ").split(" | ") for line in aims.section(rows, MACHINE, why or {}) if line.startswith("| ")]
    cells = [[cell.strip() for cell in line] for line in lines[2:]]
    return {cell[0]: cell[3:] for cell in cells if "not measured" not in cell}


def test_a_share_of_bandwidth() -> None:
    """A copy of 1 ms moves 2u, so that 3u are 1.5 ms: 85 % of them are reached within 1.76 ms."""
    name = "norm forward float32, streamed"
    assert verdicts([row("fastseg", 1.7), row("eager", 0.1)]) == {name: ["88%, 1.70 ms for 1.50 ms", "fastseg", "PASS"]}
    slow = [row("fastseg", 1.8)]
    assert verdicts(slow)[name][1:] == ["fastseg", "MISS", "not explained"]
    assert verdicts(slow, {name: "the L2 cache"})[name][2:] == ["MISS", "the L2 cache"]


def test_torch_reaches_no_aim_of_ours() -> None:
    """Neither where it is forced nor where it runs by itself, if a kernel of ours was timed too."""
    rows = [row("fastseg", 1.0), row("fastseg [reference]", 1.0), row("fastseg [cuda]", 5.0)]
    ((_, by, verdict, _),) = verdicts(rows).values()
    assert (by, verdict) == ("fastseg [cuda]", "MISS")


def test_multiply_adds_and_times_a_peer() -> None:
    case, shape = "3D k5 forward + backward", "2x32x128x128x128"
    ours = row("fastseg [cuda]", 4.0, case, shape, "depthwise", gflop=100.8)
    theirs = row(aims.NATIVE, 18.0, case, shape, "depthwise", gflop=100.8)
    assert verdicts([ours]) == {f"depthwise {case}": ["50%, 25.2 of 50.0 TFLOP/s", "fastseg [cuda]", "PASS"]}
    assert verdicts([ours, theirs])["depthwise 3D k5 beside torch's"][:3] == [
        "4.5 times, 4.00 ms for 18.00 ms",
        "fastseg [cuda]",
        "MISS",
    ]


def test_milliseconds() -> None:
    found = verdicts([row("fastseg", 5.2, "wls_filter", "1024x1024", "stereo on the device")])
    assert found == {"exact WLS": ["5.20 ms", "fastseg", "PASS"]}


def test_reasons_are_those_of_aims(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert set(aims.reasons()) <= {aim.name for aim in aims.AIMS}
    assert len({aim.name for aim in aims.AIMS}) == len(aims.AIMS)
    monkeypatch.setattr(aims, "REASONS", tmp_path / "reasons.json")
    aims.REASONS.write_text('{"no such aim": "because"}')
    with pytest.raises(ValueError, match="no aim has the name 'no such aim'"):
        aims.reasons()


BOTH = "forward + backward"
CHOICES = [
    *(row(f"fastseg [{name}]", t, BOTH, "s1") for name, t in (("triton", 2.0), ("cuda", 1.0), ("reference", 4.0))),
    *(row(f"fastseg [{name}]", t, BOTH, "s2") for name, t in (("triton", 1.01), ("cuda", 1.0))),
    row("eager", 3.0, BOTH, "s2"),
    *(row(f"fastseg channels-last [{name}]", t, BOTH, "s3") for name, t in (("triton", 1.0), ("cuda", 2.0))),
    row("fastseg", 1.0, BOTH, "s4"),
]


def test_choices() -> None:
    one, two, three = choices.choices(CHOICES)
    assert (one.shape, one.best, one.tie, one.layout) == ("s1", "cuda", False, "")
    assert (two.shape, two.tie, set(two.times)) == ("s2", True, {"triton", "cuda", "reference"})
    assert (three.shape, three.best, three.layout) == ("s3", "triton", "channels-last")
    lines = choices.table(CHOICES)
    assert lines[2] == f"| norm: {BOTH}, s1 |  | 2.00 ms | 1.00 ms | 4.00 ms | cuda | 2.00 |"
    assert lines[3] == f"| norm: {BOTH}, s2 |  | 1.01 ms | 1.00 ms | 3.00 ms | tie | 1.01 |"
    assert lines[5:] == [
        "",
        # A tie is won by both, and Triton stays before.
        "- norm: triton (2 of 3), cuda (2 of 3), reference (0 of 3)",
        f"  - cuda instead of triton: {BOTH}, s1",
    ]
    assert choices.table([row("fastseg", 1.0)]) == ["No case ran with two backends."]


def test_readme_table() -> None:
    step = {"case": readme.STEP, "shape": "8x3x256x256", "family": "unet_cbam", "network": True}
    rows = [
        row("fastseg", 2.0, "forward, bfloat16"),
        row("fastseg [cuda]", 1.0, "forward, bfloat16"),
        row("eager", 5.0, "forward, bfloat16"),
        row("torch.compile", 3.0, "forward, bfloat16"),
        row("fastseg channels-last", 20.0, memory=2**30, **step),
        row("eager", 30.0, memory=3 * 2**30, **step),
    ]
    assert readme.table(rows, MACHINE)[4:] == [
        "| instance norm + LeakyReLU, bfloat16, forward, 1x32x128x128x128 | 2.00 ms | "
        "torch.compile 3.00 ms (1.5x), eager 5.00 ms (2.5x) |",
        "| `unet_cbam`, training step, 8x3x256x256 | 20.00 ms, 1.0 GB | eager 30.00 ms (1.5x, 3.0 GB) |",
    ]
    assert readme.table([], MACHINE) == []
    text = (ROOT / "README.md").read_text()
    filled = readme.filled(text, ["a", "b"])
    assert f"{readme.BEGIN}\n\na\nb\n\n{readme.END}" in filled and "No GPU figures yet" not in filled
    assert readme.filled(text, []) == text
    with pytest.raises(ValueError, match=r"README\.md has no"):
        readme.filled("nothing", [])


def test_files_of_parts_and_of_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A part's rows become a report's, whose file is one of rows again; what failed is said."""
    times = {"stats": {"data": [1e-3, 2e-3, 3e-3]}}
    info = {"family": "norm", "case": "forward, bfloat16", "shape": "1x32x128x128x128", "floor": 1.0}
    measured = [
        {**times, "extra_info": {**info, "peer": peer}} for peer in ("fastseg", "fastseg [triton]", "fastseg [cuda]")
    ]
    machine = {**MACHINE, "processor": "P", "threads": 1, "commit": "c", "date": "d", "copy GB/s": 1.0}
    machine |= {"TF32 TFLOP/s": 1.0, "bfloat16 TFLOP/s": 1.0, "fastseg": "0"}
    part = tmp_path / "last-gpu-norm.json"
    part.write_text(
        json.dumps({"machine": machine, "benchmarks": measured, "failures": {"test_x": "the card is lost"}})
    )
    (tmp_path / "README.md").write_text(f"{readme.BEGIN}\nold\n{readme.END}\n")
    other = tmp_path / "last-gpu-gates.json"
    other.write_text(json.dumps({"machine": {**machine, "commit": "e"}, "benchmarks": [], "failures": {}}))
    assert gpu.main(["--report", str(part), str(other), "--root", str(tmp_path)]) == 2
    assert "several commits: c, e" in capsys.readouterr().err
    assert gpu.main(["--report", str(part), "--root", str(tmp_path)]) == 0
    results = tmp_path / "benchmarks" / "results" / "card.json"
    page = (tmp_path / "docs" / "benchmarks-gpu.md").read_text()
    assert "## What failed\n\n- test_x: the card is lost\n" in page and "| MISS | not explained |" in page
    start = (tmp_path / "README.md").read_text()
    assert "instance norm" in start and "old" not in start
    capsys.readouterr()
    printed = [gpu.main(["--choices", str(file)]) or capsys.readouterr().out for file in (part, results)]
    assert printed[0] == printed[1] and "tie" in printed[0]
