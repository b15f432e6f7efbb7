"""Options of ``fastseg segment``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastseg.cli.options.types import memory, not_negative, not_negative_number, overlap, positive, positive_number
from fastseg.cli.options.types import sizes as window

#: As :func:`fastseg.segmentation.augmentation.turns` calls them.
AUGMENTATIONS = ("flips", "flips_rotations")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="BraTS case, NIfTI file, folder of TIFF slices, or folder of cases")
    output = "labels: a .nii or .nii.gz file; of slices perhaps a folder of masks, of a folder of cases a folder"
    add("-o", "--output", type=Path, required=True, metavar="OUT", help=output)
    add("--network", metavar="NAME", help="one of fastseg.models.list_models(); default: what the weights say")
    weights = parser.add_mutually_exclusive_group()
    files = "safetensors or torch.save, as training writes; two files: the stages of dm_da_unet"
    weights.add_argument("--weights", type=Path, nargs="+", metavar="FILE", help=files)
    no_weights = "try out without weights: the labels mean nothing"
    weights.add_argument("--random-weights", type=not_negative, metavar="SEED", help=no_weights)
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    add("--threads", type=positive, help="of torch and of the kernels (default: torch's own)")
    add("--memory-limit", type=memory, metavar="SIZE", help="of what is predicted at a time, such as 2G; see docs")

    add = parser.add_argument_group("prediction").add_argument
    add("--tta", nargs="?", const="flips", choices=AUGMENTATIONS, help="average over views (without a word: flips)")
    add("--roi", type=window, metavar="SIZE", help="window, such as 128 or 64x128x128 (default: 128, in 2D a slice)")
    add("--overlap", type=overlap, default=0.25, help="of neighbouring windows (default: %(default)s)")
    add("--batch-size", type=positive, metavar="N", help="windows or slices at a time (default: 1 in 3D, 8 in 2D)")
    add("--crop", type=window, metavar="SIZE", help="cut-out of a cascade (default: the network's)")
    add("--locate-threshold", type=overlap, metavar="P", help="of a cascade's first stage (default: the network's)")
    add("--spacing", type=positive_number, metavar="MM", help="resample volumes to such voxels (default: keep theirs)")
    add("--gate", type=Path, metavar="FILE", help="weights of a tumour gate: slices without a tumour are skipped")
    add("--gate-threshold", type=overlap, metavar="P", help="of the gate's P(no tumour) (default: 0.99)")

    add = parser.add_argument_group("labels and files").add_argument
    add("--threshold", type=overlap, metavar="P", help="of regions and masks (default: 0.5)")
    add("--no-postprocess", dest="postprocess", action="store_false", help="leave holes and small components")
    add("--min-volume", type=not_negative_number, metavar="ML", help="of a component (default: 0.1 millilitres)")
    add("--probabilities", type=Path, metavar="FILE", help="of every channel, .nii or .nii.gz")
    add("--overlay", type=Path, metavar="FILE", help="picture of sections with the labels outlined, .png")
    add("--json", type=Path, metavar="FILE", help="times of the stages, volumes, boxes, notes, options")
