"""Options of ``fastseg stereo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastseg.cli.options.types import memory, number, positive, positive_number, whole

PRESETS = ("fast", "accurate", "paper")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("left", type=Path, metavar="LEFT", help="image of the left camera, rectified")
    add("right", type=Path, metavar="RIGHT", help="image of the right camera, of the same size")
    add("--max-disparity", type=positive, metavar="N", help="disparities are below it; default: ndisp of --calib")
    add("--min-disparity", type=whole, default=0, metavar="N", help="may be negative (default: %(default)s)")
    add("--preset", choices=PRESETS, default="accurate", help="default: %(default)s")
    add("-o", "--output", type=Path, default=Path("fastseg-stereo"), metavar="DIR", help="default: ./fastseg-stereo")
    add("--no-check", dest="check", action="store_false", help="match views that look swapped or unrectified, too")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--threads", type=positive, help="of torch and of the kernels (default: torch's own)")
    add("--memory-limit", type=memory, default="1G", metavar="SIZE", help="of volumes of costs (default: %(default)s)")
    add = parser.add_argument_group("calibration, for depth, cloud and mesh").add_argument
    add("--calib", type=Path, metavar="FILE", help="calib.txt of Middlebury, YAML or JSON of OpenCV")
    add("--focal", type=positive_number, metavar="F", help="focal length in pixels, with --baseline")
    add("--baseline", type=positive_number, metavar="B", help="distance of the cameras; its unit is that of all depths")
    add("--doffs", type=number, metavar="D", help="cx of the right camera minus cx of the left one (default: 0)")
    add("--cx", type=number, metavar="X", help="principal point of the left camera (default: the middle)")
    add("--cy", type=number, metavar="Y", help="the same along y")
    add = parser.add_argument_group("depth, cloud and mesh").add_argument
    add("--cloud", action=argparse.BooleanOptionalAction, help="point cloud (default: yes, with a calibration)")
    add("--mesh", action=argparse.BooleanOptionalAction, help="triangles (default: yes, with a calibration)")
    add("--dense", action="store_true", help="filled pixels, too: not the valid ones alone")
    add("--max-depth", type=positive_number, metavar="Z", help="leave out of cloud and mesh what is farther away")
    add("--max-depth-step", type=positive_number, metavar="S", help="the mesh is cut at larger steps (default: 0.05 Z)")
    add(
        "--depth-scale", type=positive_number, metavar="N", help="units of depth.png in one of depth; default: see docs"
    )
    add("--y-up", action="store_true", help="Y up and the scene at -Z in cloud and mesh, as most viewers have it")
