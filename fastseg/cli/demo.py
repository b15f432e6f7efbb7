"""``fastseg demo``: a stock network and its accelerated twin on one volume, compared."""

from __future__ import annotations

import argparse

import torch

from fastseg.backends.select import BackendError
from fastseg.cli import networks
from fastseg.cli.errors import CommandError, require


def run(options: argparse.Namespace) -> int:
    _check(options)
    require("demo", "nibabel", "monai", "matplotlib", *networks.libraries(options.network))
    # Only now: these import the libraries of the extra.
    from fastseg.cli import demo_run
    from fastseg.io import VolumeError

    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        demo_run.run(options)
    except (VolumeError, BackendError) as error:
        raise CommandError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise CommandError("the GPU has too little memory for this window: give a smaller one with --roi") from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
    return 0


def _check(options: argparse.Namespace) -> None:
    """What the parser cannot see in one option alone."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch sees no CUDA device (fastseg info says more)")
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
