"""``fastseg bench``: pytest-benchmark over the repository's benchmarks, then its report."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import fastseg
from fastseg.cli.errors import CommandError, require


def run(options: argparse.Namespace) -> int:
    root = checkout(options.directory)
    require("bench", "pytest", "pytest_benchmark")
    results = (options.output or root / "benchmarks" / "results" / "last.json").resolve()
    try:
        results.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{results.parent}: cannot be made ({error.strerror})") from error
    code = time_once(root, results, options.select, {})
    if code != 0:
        return code
    files = [results]
    if options.huge_pages:
        # Torch's own large outputs on huge pages: the peers profit, so they are measured that way too.
        files.append(results.with_suffix(".huge_pages.json"))
        code = time_once(root, files[-1], options.select, {"THP_MEM_ALLOC_ENABLE": "1"})
        if code != 0:
            return code
    report = root / "benchmarks" / "report.py"
    if not report.is_file():
        print(f"{report} is not there, so there is no report; the timings are in {results}")
        return 0
    return subprocess.run([sys.executable, str(report), *map(str, files)], cwd=root, check=False).returncode


def time_once(root: Path, results: Path, select: str | None, environment: dict[str, str]) -> int:
    """One run of pytest-benchmark; with an environment of its own, of the large benchmarks only."""
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", f"--benchmark-json={results}"]
    if select:
        command += ["-k", select]
    if environment:
        command += ["-m", "large"]
    return subprocess.run(command, cwd=root, env={**os.environ, **environment}, check=False).returncode


def checkout(directory: Path | None) -> Path:
    """The folder that holds ``benchmarks/``.

    Raises:
        CommandError: neither ``directory``, nor the current folder, nor the folder of the installed package has one.
    """
    candidates = [directory] if directory is not None else [Path.cwd(), Path(fastseg.__file__).parents[1]]
    for candidate in candidates:
        if any((candidate / "benchmarks").glob("test_*.py")):
            return candidate.resolve()
    where = " and ".join(str(candidate) for candidate in candidates)
    raise CommandError(
        f"no benchmarks/ with test_*.py in {where}: the benchmarks are part of the repository and not of the package, "
        "give a checkout with --directory"
    )
