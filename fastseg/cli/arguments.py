"""The options of each command. Imports nothing that a command needs, so that --help is quick and always works."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

NETWORKS = ("nnunet", "nnunet-resenc", "monai", "monai-unet")
STEREO_PRESETS = ("fast", "accurate", "paper")
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def positive(text: str) -> int:
    """A whole number above zero."""
    value = whole(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def not_negative(text: str) -> int:
    """A whole number, zero included."""
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def window(text: str) -> tuple[int, int, int]:
    """``64`` or ``64x128x128`` or ``64,128,128``: a window in voxels."""
    sizes = [positive(part) for part in text.replace("x", ",").split(",")]
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not one size or three, such as 64 or 64x128x128")
    return sizes[0], sizes[1], sizes[2]


def overlap(text: str) -> float:
    """A share in [0, 1)."""
    value = _float(text)
    if not 0 <= value < 1:  # also refuses NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1")
    return value


def positive_number(text: str) -> float:
    """A finite number above zero."""
    value = _float(text)
    if not 0 < value < float("inf"):  # also refuses NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above zero")
    return value


def number(text: str) -> float:
    """A finite number."""
    value = _float(text)
    if not abs(value) < float("inf"):  # also refuses NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def memory(text: str) -> int:
    """``512M`` or ``1.5G``: a number of bytes above zero; K, M and G are powers of 1024."""
    digits, unit = (text[:-1], text[-1].upper()) if text and text[-1].isalpha() else (text, "")
    size = _float(digits) * _BYTES.get(unit, float("nan"))
    if not 1 <= size < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M or 1.5G")
    return int(size)


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def _demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--only", choices=("segmentation", "stereo"), help="default: both, with --input the first")
    add("--input", type=Path, metavar="FILE", help="NIfTI volume (3-D, or 4-D with channels last); default: a phantom")
    add("-o", "--output", type=Path, default=Path("fastseg-demo"), metavar="DIR", help="default: ./fastseg-demo")
    add("--network", choices=NETWORKS, default="nnunet", help="a stock network (default: %(default)s)")
    add("--size", choices=("full", "small"), help="default: full with --input or --weights, small for the phantom")
    add("--classes", type=positive, default=4, help="output channels, background included (default: %(default)s)")
    add("--weights", type=Path, metavar="FILE", help="state_dict of the network; default: trained or random, see docs")
    add("--train-steps", type=not_negative, metavar="N", help="training on phantoms first (default: 60; phantom only)")
    add("--shape", type=window, default=(96, 112, 96), help="of the phantom, in voxels (default: 96x112x96)")
    add("--roi", type=window, help="window in voxels (default: 64x128x128, or less for a smaller volume)")
    add("--overlap", type=overlap, default=0.25, help="of neighbouring windows (default: %(default)s)")
    add("--repeats", type=positive, help="predictions timed of each kind (default: 3 for the phantom, else 1)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    add("--threads", type=positive, help="of torch and of the kernels (default: torch's own)")
    add("--no-channels-last", dest="channels_last", action="store_false", help="keep contiguous tensors")
    add("--seed", type=not_negative, default=0, help="of phantom, weights, training and pair (default: %(default)s)")


def _stereo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("left", type=Path, metavar="LEFT", help="image of the left camera, rectified")
    add("right", type=Path, metavar="RIGHT", help="image of the right camera, of the same size")
    add("--max-disparity", type=positive, metavar="N", help="disparities are below it; default: ndisp of --calib")
    add("--min-disparity", type=whole, default=0, metavar="N", help="may be negative (default: %(default)s)")
    add("--preset", choices=STEREO_PRESETS, default="accurate", help="default: %(default)s")
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


def _bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--directory", type=Path, metavar="DIR", help="checkout of the repository (default: found by itself)")
    add("-k", dest="select", metavar="EXPRESSION", help="run only the benchmarks whose names match, as in pytest")
    add("-o", "--output", type=Path, metavar="FILE", help="where the JSON of pytest-benchmark goes")
    add("--huge-pages", action="store_true", help="run the large ones again with huge pages for torch's own outputs")


def _evaluate(parser: argparse.ArgumentParser) -> None:
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


#: Name of the command -> its summary and the function that adds its options.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "info": ("Versions, CPU features, GPU, and which kernels are available or why not.", _info),
    "demo": ("Segment a phantom, stock and accelerated, and reconstruct a rendered stereo pair.", _demo),
    "stereo": ("Disparity, depth, point cloud and mesh of a rectified stereo pair.", _stereo),
    "bench": ("Run the repository's benchmarks and print the report.", _bench),
    "evaluate": ("Score a result against a known truth.", _evaluate),
}
