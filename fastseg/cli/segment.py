"""``fastseg segment``: tumours in MRI volumes and slices, labelled by a network of :mod:`fastseg.models`."""

from __future__ import annotations

import argparse

import torch

from fastseg.cli.errors import CommandError, require, sentences

#: What the pipeline needs of the extra "segmentation"; rich may be missing.
LIBRARIES = ("monai", "nibabel", "scipy", "PIL", "safetensors")


def run(options: argparse.Namespace) -> int:
    _check(options)
    require("segmentation", *LIBRARIES, *(["matplotlib"] if options.overlay else []))
    # Only now: this imports the libraries of the extra.
    from fastseg.cli import segment_run

    if options.threads:
        torch.set_num_threads(options.threads)
    with sentences("give a smaller --roi, --batch-size or --memory-limit"):
        return segment_run.run(options)


def _check(options: argparse.Namespace) -> None:
    """What the parser cannot see in one option alone."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: torch sees no CUDA device (fastseg info says more)")
    if options.weights is None and options.random_weights is None:
        raise CommandError("--weights is missing (--random-weights SEED runs without, and the labels mean nothing)")
    if options.weights is not None and len(options.weights) > 2:
        raise CommandError(f"--weights: {len(options.weights)} files, expected one, or the two stages of a cascade")
    if options.weights is None and options.network is None:
        raise CommandError("--random-weights needs --network")
    if options.gate_threshold is not None and options.gate is None:
        raise CommandError("--gate-threshold needs --gate")
    if options.min_volume is not None and not options.postprocess:
        raise CommandError("--min-volume and --no-postprocess exclude each other")
