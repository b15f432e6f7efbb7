"""Options of ``fastseg evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastseg.cli.options.types import positive, positive_number


def add_options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="stereo|segmentation")
    summary = "Score a disparity map against a known truth."
    _add_stereo(kinds.add_parser("stereo", help=summary, description=summary))
    summary = "Score label volumes against the truth: Dice, IoU, precision, recall, specificity, HD95, AUC."
    _add_segmentation(kinds.add_parser("segmentation", help=summary, description=summary))


def _add_stereo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
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


def _add_segmentation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "pred",
        type=Path,
        metavar="PRED",
        help="NIfTI file of labels, a folder of masks NAME_1_mask.tif, ..., or a folder of cases",
    )
    add("truth", type=Path, metavar="TRUTH", help="the same; cases of folders are matched by name")
    scored = parser.add_mutually_exclusive_group()
    scored.add_argument(
        "--regions",
        choices=("brats",),
        help="WT, TC and ET of labels 1, 2 and 4 (or 3); default where there are no others than these and 1 is not "
        "the only one",
    )
    scored.add_argument(
        "--labels", type=positive, nargs="+", metavar="N", help="score each of these labels; default: all that occur"
    )
    add(
        "--probabilities", type=Path, metavar="PATH", help="NIfTI file or folder for the AUC: a channel for each region"
    )
    add("--roc", type=Path, metavar="FILE", help="write the ROC curves of --probabilities as CSV")
    add(
        "--if-one-empty",
        choices=("infinity", "diagonal"),
        default="infinity",
        help="HD95 where only one of PRED and TRUTH has a region; infinite ones are left out of means",
    )
    add("--against", type=Path, metavar="FOLDER", help="another model's PRED: a paired test of each score over cases")
    add("--test", choices=("wilcoxon", "t"), default="wilcoxon", help="of --against")
    add("--csv", type=Path, metavar="FILE", help="write the scores of every case and region")
    add("--json", action="store_true", help="print JSON instead of text")
