"""Options of ``fastseg train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastseg.cli.options.types import assignment, not_negative, not_negative_number, positive, positive_number, sizes

NETWORKS = ("resunet", "resunet_ce_aspp", "unet", "unet_cbam", "msfen", "dense_unet_2d", "da_unet_3d")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--network", choices=NETWORKS, required=True, help="a network of the papers")
    add("--set", type=assignment, action="append", default=[], dest="arguments", metavar="KEY=VALUE",
        help="an argument of the network, such as widths=16,32,64")  # fmt: skip
    add("-o", "--output", type=Path, default=Path("fastseg-train"), metavar="DIR", help="default: ./fastseg-train")
    add("--resume", action="store_true", help="go on with the run in the output folder")
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR",
                        help="images/ and masks/, folders of TCGA-LGG, or of BraTS")  # fmt: skip
    source.add_argument("--synthetic", type=Path, nargs="+", metavar="SCAN",
                        help="set synthetic lesions into scans without skull (NIfTI), instead of --data")  # fmt: skip
    add = data.add_argument
    add("--copies", type=positive, metavar="N", help="of each scan, with other lesions (default: 8; --synthetic only)")
    add("--cache", type=Path, metavar="DIR", help="where prepared cases go (default: prepared/ in the output folder)")
    add(
        "--image-size", type=sizes, metavar="HxW", help="2D: pictures are scaled to it, slices of volumes padded or cut"
    )
    add("--patch-size", type=sizes, metavar="XxYxZ", help="3D: of patches and tiles (default: 128, or less)")
    add("--patches", type=positive, default=4, metavar="N", help="3D: of each case in an epoch (default: %(default)s)")
    add("--no-augment", dest="augment", action="store_false", help="train on the images as they are")
    add("--folds", type=positive, metavar="K", help="split into K parts, one for validation; default: 85/11.25/3.75 %%")
    add("--fold", type=not_negative, default=0, metavar="I", help="which of them, from 0 (default: %(default)s)")
    add("--limit-cases", type=positive, metavar="N", help="only the first N patients")
    add("--limit-train", type=positive, metavar="N", help="images of an epoch, evenly spread over all")
    add("--limit-validation", type=positive, metavar="N", help="the same of the validation")
    add("--workers", type=not_negative, default=2, help="processes that load data (default: %(default)s)")
    add = parser.add_argument_group("recipe; default: of the network's paper").add_argument
    add("--epochs", type=positive, metavar="N")
    add("--batch-size", type=positive, metavar="N", help="of each process")
    add("--accumulate", type=positive, dest="accumulation", metavar="N", help="batches whose gradients make a step")
    add("--loss", metavar="NAME", help="cross_entropy, dice_cross_entropy, focal_tversky, region_dice, ...")
    add("--optimizer", choices=("adam", "adamw", "sgd"))
    add("--lr", type=positive_number, dest="learning_rate", metavar="RATE")
    add("--weight-decay", type=not_negative_number, metavar="W")
    add("--schedule", choices=("constant", "cosine"), help="of the learning rate")
    add("--warmup", type=not_negative, dest="warmup_epochs", metavar="N", help="epochs in which the rate rises")
    add("--clip", type=positive_number, dest="clip_norm", metavar="NORM", help="largest norm of the gradients")
    add("--patience", type=positive, metavar="N", help="stop after N epochs without a better Dice")
    add("--precision", choices=("32-true", "bf16-mixed"))
    add("--seed", type=not_negative, help="of split, weights, order, augmentation and lesions (default: 0)")
    add = parser.add_argument_group("machine").add_argument
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU where there is one")
    add("--devices", type=positive, default=1, metavar="N", help="processes on this machine; or use torchrun")
    add("--threads", type=positive, help="of torch and of the kernels (default: torch's own)")
