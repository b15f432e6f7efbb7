"""Options of ``fastseg evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastseg.cli.options.types import positive_number


def add_options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="stereo")
    summary = "Score a disparity map against a known truth."
    add = kinds.add_parser("stereo", help=summary, description=summary).add_argument
    add("disparity", type=Path, metavar="DISPARITY", help="PFM, NPY, NPZ or PNG; NaN, infinity or a PNG's 0: invalid")
    add("truth", type=Path, metavar="TRUTH", help="the same formats; NaN, infinity or a PNG's 0: not known")
    scale = "what the numbers of {} are divided by, needed for PNG: 4 for Middlebury 2003, 256 for KITTI"
    add("--scale", type=positive_number, metavar="N", help=scale.format("DISPARITY"))
    add("--truth-scale", type=positive_number, metavar="N", help=scale.format("TRUTH"))
    for region, where in (("nonocc", "visible to both"), ("all", "known"), ("disc", "near discontinuities of depth")):
        add(f"--{region}", type=Path, metavar="FILE", help=f"mask of Middlebury: 255 where {where}")
    add("--valid", type=Path, metavar="FILE", help="mask, 0 where the disparity is invalid (it is scored all the same)")
    add("--only-valid", action="store_true", help="leave invalid pixels out of bad, average and RMS")
    add("--json", action="store_true", help="print JSON instead of text")
