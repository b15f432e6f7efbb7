"""Options of ``fastseg bench``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--directory", type=Path, metavar="DIR", help="checkout of the repository (default: found by itself)")
    add("-k", dest="select", metavar="EXPRESSION", help="run only the benchmarks whose names match, as in pytest")
    add("-o", "--output", type=Path, metavar="FILE", help="where the JSON of pytest-benchmark goes")
    add("--huge-pages", action="store_true", help="run the large ones again with huge pages for torch's own outputs")
