"""The tests that need an NVIDIA GPU: ``python -m tests.gpu PART [OPTION OF PYTEST ...]``; docs/gpu.md has the parts.

A family of ops with a backend, or a file, has a process of its own: see :mod:`tests.gpu.processes`. Prints a few lines,
and writes every failure in full into ``last-gpu-tests-PART.txt``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.gpu import summary
from tests.gpu.processes import ROOT, Outcome, Runner, Unit

HERE = "tests/gpu"
OPS = (f"{HERE}/test_every_op_gpu.py", f"{HERE}/test_models_gpu.py")
KERNELS = f"{HERE}/test_cuda_kernels_gpu.py"
SANITIZERS = ("memcheck", "racecheck")
PARTS = ("ops", "families", "kernels", "alone", *SANITIZERS)
#: More than 2^31 elements, and times: one after another on an empty card.
ALONE = "31_elements or 32_bits or time_beside"
SECONDS = 150.0  # for a test, the compilation of its kernels included


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("part", choices=(*PARTS, "all"))
    parser.add_argument("--minutes", type=float, default=9.0, help="for each part; what has not ended then is killed")
    parser.add_argument("--workers", type=int, default=max(1, min(8, (os.cpu_count() or 1) // 2)))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each test")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the failures")
    options, more = parser.parse_known_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    return max(run_part(part, options, more) for part in (PARTS if options.part == "all" else [options.part]))


def run_part(part: str, options: argparse.Namespace, more: list[str]) -> int:
    if part in SANITIZERS and shutil.which("compute-sanitizer") is None:
        print(f"== {part}: compute-sanitizer is not on PATH", file=sys.stderr)
        return 2
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seconds = 4 * options.seconds if part in SANITIZERS else options.seconds
        runner = Runner(Path(folder), seconds, begin + 60 * options.minutes, 1 if part == "alone" else options.workers)
        outcomes = runner.run([with_more(unit, more) for unit in units(part, runner.folder)])
        if part in SANITIZERS:
            outcomes += reports(part, runner.folder)
    file = options.output / f"last-gpu-tests-{part}.txt"
    file.write_text(summary.failures(outcomes))
    print(f"== {part}, {time.monotonic() - begin:.0f} s: {file}", *summary.lines(outcomes), sep="\n", flush=True)
    return int(not outcomes or any(each.outcome in ("failed", "not run") for each in outcomes))


def with_more(unit: Unit, more: list[str]) -> Unit:
    """pytest takes the last -k alone: both hold."""
    arguments, more = list(unit.arguments), list(more)
    if "-k" in more and "-k" in arguments:
        at = more.index("-k")
        _, select = more[at : at + 2]
        del more[at : at + 2]
        mine = arguments.index("-k") + 1
        arguments[mine] = f"({arguments[mine]}) and ({select})"
    return Unit(unit.name, [*arguments, *more], unit.before)


def units(part: str, folder: Path) -> list[Unit]:
    if part == "ops":
        marked = ["-m", "gpu", "-k", f"not ({ALONE})"]
        ops, networks = OPS
        return [
            Unit("models", [networks, *marked]),
            *(Unit(name, [ops, *marked, *of]) for name, of in families_of_ops().items()),
        ]
    if part == "kernels":
        # Not marked: they take the GPU where there is one, and the interpreter elsewhere.
        files = [file for file in files_of("tests/backends/test_triton_*.py") if not file.endswith("_aot.py")]
        return [Unit(Path(file).stem, [file, "-k", "not in_the_interpreter"]) for file in files]
    files = [file for file in files_of(f"{HERE}/test_*_gpu.py") if file not in OPS or part == "alone"]
    if part == "alone":
        return [Unit(Path(file).stem, [file, "-m", "gpu", "-k", ALONE]) for file in files if tests_alone(file)]
    if part == "families":
        return [Unit(Path(file).stem, [file, "-m", "gpu", "-k", f"not ({ALONE})"]) for file in files]
    from tests.gpu.cuda_kernels import FAMILIES

    return [Unit(f"cuda_kernels [{name}]", sanitized(name), under(part, folder)) for name in FAMILIES]


def families_of_ops() -> dict[str, list[str]]:
    """A family with a backend shares a process: what its kernels write beyond their tensors is seen nowhere else."""
    from fastseg import ops
    from tests.gpu.cases import runs

    found: dict[str, list[str]] = {}
    for op, backend in runs():
        family = getattr(ops, op).__module__.rpartition(".")[2]
        found.setdefault(f"{family} [{backend}]", []).extend(("--of", f"{op} [{backend}]"))
    return found


def files_of(pattern: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


def tests_alone(file: str) -> bool:
    """So that no process starts for nothing."""
    return any(name in (ROOT / file).read_text() for name in ALONE.split(" or "))


# ---- compute-sanitizer


def sanitized(family: str) -> list[str]:
    return [KERNELS, "-m", "gpu", "--of", f"cuda_kernels [{family}]"]


def under(tool: str, folder: Path) -> list[str]:
    """Kernels of torch itself are not the subject. Without a leak check: torch keeps its context to the end. torch's
    allocator would hide an access beyond a tensor inside of a larger block."""
    command = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--tool", tool, "--kernel-name"]
    return [*command, "kns=fastseg", "--report-api-errors", "no", "--log-file", str(folder / f"{tool}-%p.txt")]


def reports(tool: str, folder: Path) -> list[Outcome]:
    """What the tool itself found, which fails no test: hazards, and accesses after which the card went on."""
    found = []
    for file in sorted(folder.glob(f"{tool}-*.txt")):
        said = [line.removeprefix("=========").strip() for line in file.read_text(errors="replace").splitlines()]
        counts = [line for line in said if "SUMMARY:" in line]
        clean = bool(counts) and all(" 0 errors" in line or " 0 hazards" in line for line in counts)
        of = next((line for line in said if line and "SUMMARY:" not in line and line != "COMPUTE-SANITIZER"), "")
        why = f"{'; '.join(counts) or 'no summary'} {of}"
        outcome = "passed" if clean else "failed"
        found.append(Outcome(file.name, tool, outcome, why, "" if clean else "\n".join(said)[:20000]))
    return found or [Outcome(tool, tool, "failed", "it has written nothing")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
