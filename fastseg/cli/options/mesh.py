"""Options of ``fastseg mesh``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastseg.cli.options.types import not_negative, positive


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("segmentation", type=Path, metavar="SEG", help="NIfTI file of labels")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .ply, .obj or .stl")
    what = "a label, or WT, TC or ET of BraTS; may be given several times for all together (default: all but 0)"
    add("--label", dest="labels", action="append", metavar="N", help=what)
    add("--smooth", type=not_negative, default=10, metavar="N", help="rounds of smoothing, 0 for none (default: 10)")
    add("--step", type=positive, default=1, metavar="N", help="blocks of N voxels a side: fewer triangles (default: 1)")
