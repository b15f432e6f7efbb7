"""Benchmarks on a GPU: ``python -m benchmarks.gpu --part norm --output FOLDER``, then ``--report FOLDER/*.json``.

Each part measures what the card reaches and fits a call of ten minutes; the report puts the parts side by side, on any
machine. ``--device cpu --smoke`` goes the same way in seconds and says nothing of speed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import fastseg
from benchmarks import report
from benchmarks.gpu import aims, choices, readme, record, roofline
from benchmarks.gpu.peaks import peaks
from fastseg.backends import availability
from tests.gpu import summary
from tests.gpu.processes import Runner, Unit, lines_of

ROOT = Path(__file__).resolve().parents[2]
HERE = "benchmarks/gpu"
#: name -> files, and what of them
PARTS: dict[str, tuple[list[str], str]] = {
    "norm": (
        [f"{HERE}/test_bandwidth_on_device.py", "benchmarks/test_norm.py", "benchmarks/test_batch_norm.py"],
        "not test_loss",
    ),
    "depthwise": ([f"{HERE}/test_depthwise_on_device.py", "benchmarks/test_depthwise.py"], ""),
    "stereo": ([f"{HERE}/test_stereo_on_device.py"], ""),
    "gates": (["benchmarks/test_attention_gate.py", "benchmarks/test_soft_mask_attention.py"], ""),
    "cbam": (["benchmarks/test_cbam.py", "benchmarks/test_context.py"], "not simple_aspp"),
    "loss": ([f"{HERE}/test_bandwidth_on_device.py", "benchmarks/test_loss.py"], "test_loss"),
    "networks": (["benchmarks/test_models.py", "benchmarks/test_networks.py"], ""),
    "end-to-end": ([f"{HERE}/test_end_to_end.py"], ""),
}
ON_DEVICE = [f"{HERE}/test_{name}_on_device.py" for name in ("bandwidth", "depthwise", "stereo")]
SMOKE = (
    ["benchmarks/test_norm.py", *ON_DEVICE],
    "small_call or (on_device and fastseg and not compile and not k5 and not k7 and not median and not pipeline)",
)
SECONDS = 300.0  # for one peer of one case: torch.compile may search for minutes
HEAD = [
    "# Benchmarks on a GPU",
    "",
    "Written by `make bench-gpu`. Events of the device around each call, whose inputs are in no cache: before every",
    "round memory larger than the L2 cache is read. Whole networks and pipelines, and peers on the CPU, by the host's",
    "clock. Medians of many rounds, with the 20th and 80th percentile. The floor is `y.copy_(x)` of the tensor, timed",
    "in the same way. *fastseg* is what runs by itself; in brackets, a backend that was forced, in networks one that",
    "came first. *Times fastseg* is the peer's median over that of the fastest fastseg row, forced ones too.",
    "Convolutions of the peers may use TF32, which torch allows by itself. Training steps under bfloat16 autocast are",
    "forward, a cross entropy or for stock networks the mean of squares, backward and SGD with momentum; for the",
    "others see below.",
]
CHOICES = [
    "Of each case that two backends ran, by the rules of [gpu.md](gpu.md); *reference* is torch's own ops, eager ones",
    "where these were not forced. A tie: p20 to p80 do not tell the first from the next.",
]
PICTURES = ["![time over the floor](images/benchmarks_gpu.png)", "", "![roofline](images/roofline_gpu.png)"]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--minutes", type=float, default=9.0, help="for each part; what would begin later is skipped")
    parser.add_argument("--commit", help="what is measured, in a copy of the checkout without git")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="two rounds of a few small benchmarks")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the parts")
    parser.add_argument("--report", nargs="+", type=Path, metavar="FILE", help="no run: the report of these parts")
    parser.add_argument("--choices", nargs="+", type=Path, metavar="FILE", help="no run: the fastest backends of these")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder that the report is written into")
    options = parser.parse_args(arguments)
    if options.report:
        return write_report(options.report, options.root)
    if options.choices:
        rows = [row for file in options.choices for row in rows_of(json.loads(file.read_text()))]
        print(*choices.table(rows), sep="\n")
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --smoke tries the scripts")
    if options.device == "cpu" and not options.smoke:
        parser.error("--device cpu goes with --smoke: a CPU's benchmarks are those of make bench")
    options.output.mkdir(parents=True, exist_ok=True)
    names = ["smoke"] if options.smoke else list(PARTS) if options.part == "all" else [options.part]
    codes, files = [], []
    for name in names:
        # Not named as a part: "last-gpu-*.json" are the files of a report.
        files.append(options.output / ("smoke-gpu.json" if options.smoke else f"last-gpu-{name}.json"))
        codes.append(run_part(name, options, files[-1]))
    if options.part == "all":
        codes.append(write_report(files, options.root))  # of what was measured
    return max(codes)


def run_part(name: str, options: argparse.Namespace, file: Path) -> int:
    """In a process of its own, and in one more where one ended early: what was measured is kept."""
    device, smoke = options.device, options.smoke
    machine = {
        **machine_now(device, options.commit or report.commit()),
        **{key: float(f"{value:.3g}") for key, value in peaks(device, smoke=smoke).items()},
    }
    torch.cuda.empty_cache()  # the process of the benchmarks has the card's memory
    paths, select = SMOKE if smoke else PARTS[name]
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        rows = file.with_suffix(".rows")  # not in the folder: whoever kills this process finds what was measured
        rows.write_text("")
        run = record.Run(device, smoke, time.time() + seconds, str(rows))
        more = ["-p", "no:benchmark", "-p", "benchmarks.gpu.plugin", *(["-k", select] if select else [])]
        # Half as long again for the one that has begun.
        runner = Runner(Path(folder), SECONDS, time.monotonic() + 1.5 * seconds, environment=run.as_environment())
        outcomes = runner.run([Unit(name, [*paths, *more])])
        measured = lines_of(rows)
    failures = {each.test: each.why for each in outcomes if each.outcome in ("failed", "not run")}
    found = {"machine": machine, "benchmarks": measured, "failures": failures}
    report.write(file, json.dumps(found, indent=1) + "\n")
    rows.unlink()
    file.with_suffix(".txt").write_text(summary.failures(outcomes))
    print(f"== {name}: {len(measured)} rows in {file}", *summary.lines(outcomes), sep="\n", flush=True)
    return int(bool(failures))


def machine_now(device: str, commit: str) -> dict[str, Any]:
    """In the order of the report's head."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "cuDNN": str(torch.backends.cudnn.version()),
        "fastseg": fastseg.__version__,
        "CUDA C++ kernels for": availability.CUDA_ARCHITECTURES or "none",
        "commit": commit,
        "date": datetime.date.today().isoformat(),
    }


def write_report(files: list[Path], root: Path) -> int:
    """``benchmarks/results/<device>.json``, ``docs/benchmarks-gpu.md`` with its pictures, and the README's table."""
    runs = [json.loads(file.read_text()) for file in files]
    machine = runs[0]["machine"]
    others = {run["machine"]["device"] for run in runs} - {machine["device"]}
    if others:
        print(f"parts of several devices: {machine['device']}, {', '.join(sorted(others))}", file=sys.stderr)
        return 2
    commits = {run["machine"]["commit"] for run in runs}
    if len(commits) > 1:
        print(f"parts of several commits: {', '.join(sorted(commits))}", file=sys.stderr)
        return 2
    rows = [row for run in runs for row in rows_of(run)]
    failures = {test: why for run in runs for test, why in run["failures"].items()}
    images = root / "docs" / "images"
    results = root / "benchmarks" / "results" / f"{report.slug(machine)}.json"
    for folder in (images, results.parent):
        folder.mkdir(parents=True, exist_ok=True)
    found = {"machine": machine, "failures": failures, "rows": [asdict(row) for row in rows]}
    report.write(results, json.dumps(found, indent=1) + "\n")
    report.draw(rows, machine, images / "benchmarks_gpu.png")
    drawn = roofline.draw(rows, machine, report.subtitle(machine), images / "roofline_gpu.png")
    beginning = [*(PICTURES if drawn else PICTURES[:1]), *aims.section(rows, machine, aims.reasons())]
    text = report.markdown(rows, machine, HEAD, beginning)
    text += "\n".join(["", "## Choice of kernels", "", *CHOICES, "", *choices.table(rows), ""])
    if failures:
        text += "\n".join(["", "## What failed", "", *(f"- {test}: {why}" for test, why in failures.items()), ""])
    page, start = root / "docs" / "benchmarks-gpu.md", root / "README.md"
    report.write(page, text)
    if start.exists():
        report.write(start, readme.filled(start.read_text(), readme.table(rows, machine)))
    print(results, page, sep="\n")
    return 0


def rows_of(run: dict[str, Any]) -> list[report.Row]:
    """Of a part, or of what a report has written."""
    if "rows" in run:
        return [report.Row(**row) for row in run["rows"]]
    return report.rows_of({"machine_info": {}, **run})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
