"""``fastseg demo``: a stock network and its accelerated twin on one volume; a stereo pair and its truth."""

from __future__ import annotations

import argparse

import torch

from fastseg.cli import networks
from fastseg.cli.errors import CommandError, require, sentences
from fastseg.cli.stereo import LIBRARIES


def run(options: argparse.Namespace) -> int:
    _check(options)
    # Somebody's own volume is all that they want to see.
    segmentation = options.only != "stereo"
    stereo = options.only == "stereo" or (options.only is None and options.input is None)
    libraries = ["nibabel", "monai", "matplotlib", *networks.libraries(options.network)] if segmentation else []
    require("demo", *dict.fromkeys([*libraries, *(LIBRARIES if stereo else ())]))
    if options.threads:
        torch.set_num_threads(options.threads)
    # Imported only now: these need the libraries of the extra.
    if segmentation:
        from fastseg.cli import demo_run

        with sentences("give a smaller window with --roi"):
            demo_run.run(options)
    if segmentation and stereo:
        print()
    if stereo:
        from fastseg.cli import demo_stereo

        with sentences("give --device cpu"):
            demo_stereo.run(options)
    return 0


def _check(options: argparse.Namespace) -> None:
    """What the parser cannot see in one option alone."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch sees no CUDA device (fastseg info says more)")
    if options.only == "stereo" and options.input:
        raise CommandError("--only stereo renders its own pair: leave out --input")
    if options.train_steps and options.input:
        raise CommandError("--train-steps needs labels, which only the phantom has: leave out --input")
    if options.train_steps and options.weights:
        raise CommandError("--train-steps and --weights exclude each other")
    if options.classes < 2:
        raise CommandError(f"--classes {options.classes}: expected at least 2, the background is one")
    if options.input is None:
        if options.classes != networks.PHANTOM_CLASSES:
            raise CommandError(f"--classes {options.classes}: the phantom has {networks.PHANTOM_CLASSES}")
        if min(options.shape) < 16:
            raise CommandError("--shape: a phantom needs at least 16 voxels along each axis")
