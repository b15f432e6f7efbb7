"""Options of ``fastseg demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastseg.cli.options.types import not_negative, overlap, positive, window

NETWORKS = ("nnunet", "nnunet-resenc", "monai", "monai-unet")


def add_options(parser: argparse.ArgumentParser) -> None:
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
