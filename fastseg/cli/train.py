"""``fastseg train``: a network of the papers on a folder of patients, or on scans with synthetic lesions."""

from __future__ import annotations

import argparse
import os
import sys

import torch

from fastseg.cli.errors import CommandError, require, sentences

#: What training needs of the extras "training" and "segmentation"; rich may be missing.
LIBRARIES = ("lightning_fabric", "monai", "nibabel", "scipy", "matplotlib", "safetensors", "PIL")

_OF_RECIPE = (
    "epochs", "batch_size", "accumulation", "loss", "optimizer", "learning_rate", "weight_decay", "schedule",
    "warmup_epochs", "clip_norm", "patience", "precision", "seed",
)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    _check(options)
    require("training", *LIBRARIES)
    # Only now: this imports the libraries of the extra.
    from fastseg.cli import train_run

    if options.threads:
        torch.set_num_threads(options.threads)
    changes = {name: value for name in _OF_RECIPE if (value := getattr(options, name)) is not None}
    with sentences("give a smaller --batch-size, with --accumulate, or a smaller --patch-size or --image-size"):
        try:
            train_run.run(options, changes)
        except KeyboardInterrupt:
            checkpoint = options.output / "last.ckpt"
            if checkpoint.exists():  # not yet while patients are prepared
                print(f"fastseg train: --resume goes on from {checkpoint}", file=sys.stderr)
            raise
    return 0


def _check(options: argparse.Namespace) -> None:
    """What the parser cannot see in one option alone."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch sees no CUDA device (fastseg info says more)")
    if options.copies is not None and options.synthetic is None:
        raise CommandError("--copies is for --synthetic, but --data is given")
    if options.fold and not options.folds:
        raise CommandError(f"--fold {options.fold} needs --folds, too")
    if options.folds is not None and not (options.folds >= 2 and options.fold < options.folds):
        raise CommandError(f"--fold {options.fold} --folds {options.folds}: expected 2 folds or more, and a fold below")
    if options.devices > 1 and "LOCAL_WORLD_SIZE" in os.environ:
        raise CommandError(f"--devices {options.devices}: torchrun says how many processes there are, leave it out")
