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
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import fastseg
from benchmarks import report
from benchmarks.gpu import record, roofline
from benchmarks.gpu.peaks import peaks
from fastseg.backends import availability

ROOT = Path(__file__).resolve().parents[2]
HERE = "benchmarks/gpu"
#: name -> files, and what of them
PARTS: dict[str, tuple[list[str], str]] = {
    "norm": (["benchmarks/test_norm.py", "benchmarks/test_batch_norm.py"], ""),
    "gates": (["benchmarks/test_attention_gate.py", "benchmarks/test_soft_mask_attention.py"], "not unet"),
    "cbam": (["benchmarks/test_cbam.py", "benchmarks/test_context.py"], "not simple_aspp"),
    "depthwise": (["benchmarks/test_depthwise.py"], ""),
    "stereo": ([f"{HERE}/test_stereo_on_device.py"], ""),
    "networks": (["benchmarks/test_models.py", "benchmarks/test_networks.py"], ""),
    "end-to-end": ([f"{HERE}/test_end_to_end.py"], ""),
}
SMOKE = (["benchmarks/test_norm.py", f"{HERE}/test_stereo_on_device.py"], "small_call or winner or matching_cost")
HEAD = [
    "# Benchmarks on a GPU",
    "",
    "Written by `make bench-gpu`. Events of the device around each call, whose inputs are in no cache: before every",
    "round memory larger than the L2 cache is written. Medians of many rounds, with the 20th and 80th percentile. The",
    "floor is `y.copy_(x)` of the tensor, timed in the same way. *fastseg* is what runs by itself; in brackets, a",
    "backend that was forced. *Times fastseg* is the peer's median over that of the fastest fastseg row, forced ones",
    "too. Training steps under bfloat16 autocast are forward, a cross entropy or for stock networks the mean of",
    "squares, backward and SGD with momentum; for the others see below.",
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
    parser.add_argument("--root", type=Path, default=ROOT, help="folder that the report is written into")
    options = parser.parse_args(arguments)
    if options.report:
        return write_report(options.report, options.root)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --smoke tries the scripts")
    if options.device == "cpu" and not options.smoke:
        parser.error("--device cpu goes with --smoke: a CPU's benchmarks are those of make bench")
    options.output.mkdir(parents=True, exist_ok=True)
    names = ["smoke"] if options.smoke else list(PARTS) if options.part == "all" else [options.part]
    codes, files = [], []
    for name in names:
        files.append(options.output / f"last-gpu-{name}.json")
        codes.append(run_part(name, options, files[-1]))
    return max(codes) or (write_report(files, options.root) if options.part == "all" else 0)


def run_part(name: str, options: argparse.Namespace, file: Path) -> int:
    """In this process. What was measured is kept where some benchmarks fail."""
    device, smoke = options.device, options.smoke
    record.RUN = record.Run(device, smoke, time.monotonic() + 60 * options.minutes)
    torch.backends.cudnn.benchmark = True  # the vendor's best route, for every peer
    machine = {
        **machine_now(device, options.commit or report.commit()),
        **{key: float(f"{value:.3g}") for key, value in peaks(device, smoke=smoke).items()},
    }
    paths, select = SMOKE if smoke else PARTS[name]
    command = [*(str(ROOT / path) for path in paths), "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    command += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    try:
        code = int(pytest.main([*command, *(["-k", select] if select else [])], [record.Plugin()]))
        report.write(file, json.dumps({"machine": machine, "benchmarks": record.RUN.benchmarks}, indent=1) + "\n")
    finally:
        record.RUN = None
    print(file)
    return code


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
    """``benchmarks/results/<device>.json``, ``docs/benchmarks-gpu.md`` and its pictures."""
    runs = [json.loads(file.read_text()) for file in files]
    machine = runs[0]["machine"]
    others = {run["machine"]["device"] for run in runs} - {machine["device"]}
    if others:
        print(f"parts of several devices: {machine['device']}, {', '.join(sorted(others))}", file=sys.stderr)
        return 2
    rows = [row for run in runs for row in report.rows_of({"machine_info": {}, **run})]
    images = root / "docs" / "images"
    results = root / "benchmarks" / "results" / f"{report.slug(machine)}.json"
    for folder in (images, results.parent):
        folder.mkdir(parents=True, exist_ok=True)
    report.write(results, json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    report.draw(rows, machine, images / "benchmarks_gpu.png")
    drawn = roofline.draw(rows, machine, report.subtitle(machine), images / "roofline_gpu.png")
    page = root / "docs" / "benchmarks-gpu.md"
    report.write(page, report.markdown(rows, machine, HEAD, PICTURES if drawn else PICTURES[:1]))
    print(results, page, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
