"""The steps of the demo: a volume, a network with weights, the comparison, the files.

The accelerated network is a copy of the stock one that was handed to :func:`fastseg.accelerate`; all else is the same.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastseg.accelerate import accelerate
from fastseg.cli import networks, results, training
from fastseg.cli.compare import Comparison, compare
from fastseg.cli.errors import CommandError
from fastseg.cli.networks import StockNetwork
from fastseg.cli.progress import progress
from fastseg.io import Volume, from_ras, load_nifti, save_nifti, to_ras
from fastseg.models.weights import load_weights
from fastseg.segmentation.labels import labels_of_classes
from fastseg.segmentation.phantom import Phantom, brain_phantom
from fastseg.segmentation.preprocess import zscore
from fastseg.segmentation.sliding_window import window_count

_WINDOW = (64, 128, 128)
_PHANTOM_WINDOW = (64, 64, 64)
_TRAIN_STEPS = 60


@dataclass(frozen=True)
class _Source:
    """The volume to predict, its file, and for a phantom the truth."""

    path: Path
    volume: Volume
    phantom: Phantom | None


def run(options: argparse.Namespace) -> None:
    """Do what the options ask for, write the files and print the results.

    Raises:
        CommandError, VolumeError, OSError: input that cannot be worked with, or a folder that cannot be written to.
    """
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    source = _source(options)
    image = zscore(torch.from_numpy(to_ras(source.volume.data, source.volume.affine))).to(device)
    size = options.size or ("full" if options.input or options.weights else "small")
    stock = networks.build(options.network, size, channels=image.shape[0], classes=options.classes, seed=options.seed)
    roi = _window(options, stock, tuple(image.shape[1:]))
    steps = _training_steps(options)
    origin = _fill(stock.module.to(device), options, roi, steps)
    stock.module.to(dtype)
    accelerated = accelerate(copy.deepcopy(stock.module), channels_last=options.channels_last)
    setup = results.Setup(
        input=source.path,
        volume=source.volume,
        network=f"{options.network} ({size}, {stock.features[0]} to {max(stock.features)} channels)",
        parameters=sum(parameter.numel() for parameter in stock.module.parameters()),
        weights=origin,
        random_weights=options.weights is None and not steps,
        roi=roi,
        overlap=options.overlap,
        windows=window_count(image.shape[1:], roi, options.overlap),
        device=device,
        dtype=options.dtype,
        channels_last=options.channels_last,
    )
    print(results.heading(setup, accelerated), flush=True)
    repeats = options.repeats or (1 if options.input else 3)
    comparison = compare(stock.module, accelerated, image, roi, overlap=options.overlap, dtype=dtype, repeats=repeats)
    labels = comparison.classes.numpy().astype(np.int32)
    dice = None
    if source.phantom is not None:
        labels = labels_of_classes(labels)
        dice = training.dice_by_region(labels, source.phantom.labels)
    print(results.outcome(comparison, setup, dice))
    options.output.mkdir(parents=True, exist_ok=True)
    written = _write(options, source, setup, accelerated, comparison, labels, dice)
    print("\nwritten  " + "\n         ".join(str(path) for path in written))


def _source(options: argparse.Namespace) -> _Source:
    if options.input is not None:
        return _Source(options.input, load_nifti(options.input), None)
    phantom = brain_phantom(options.shape, seed=options.seed)
    path = options.output / "phantom.nii.gz"
    volume = Volume.from_array(phantom.image, phantom.affine)
    options.output.mkdir(parents=True, exist_ok=True)
    save_nifti(path, phantom.image, like=volume)
    save_nifti(options.output / "phantom_labels.nii.gz", phantom.labels, like=volume)
    return _Source(path, load_nifti(path), phantom)  # from its file, as any other input


def _window(options: argparse.Namespace, network: StockNetwork, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The window asked for, or one that is not much larger than the volume."""
    stride = network.stride
    if options.roi is None:
        default = _WINDOW if options.input is not None else _PHANTOM_WINDOW
        # Two voxels at the network's lowest resolution at least: instance norm has no variance over one.
        x, y, z = (
            min(window, max(2 * stride, stride * math.ceil(size / stride)))
            for window, size in zip(default, shape, strict=True)
        )
        return x, y, z
    roi: tuple[int, int, int] = options.roi
    text = "x".join(map(str, roi))
    if any(size % stride for size in roi):
        raise CommandError(f"--roi {text}: each size must be a multiple of {stride}, the stride of {options.network}")
    if math.prod(roi) == stride**3:
        raise CommandError(
            f"--roi {text}: leaves one voxel at the lowest resolution of {options.network} (stride {stride}), which "
            f"has no variance to normalise by: give {2 * stride} along one axis at least"
        )
    return roi


def _training_steps(options: argparse.Namespace) -> int:
    if options.input is not None or options.weights is not None:
        return 0
    return _TRAIN_STEPS if options.train_steps is None else int(options.train_steps)


def _fill(network: nn.Module, options: argparse.Namespace, roi: tuple[int, int, int], steps: int) -> str:
    """Give the network the weights that the options ask for, and say in words where they come from."""
    if options.weights is not None:
        load_weights(network, options.weights)
        return f"from {options.weights}"
    if steps == 0:
        return f"random (seed {options.seed}): the labels mean nothing, only time and equality do"
    # The accelerated twin learns; the stock network then takes its state_dict as it is.
    twin = accelerate(copy.deepcopy(network), channels_last=options.channels_last)
    with progress("training on other phantoms", steps) as advance:
        seconds = training.train(twin, steps=steps, shape=options.shape, roi=roi, seed=options.seed, on_step=advance)
    network.load_state_dict(twin.state_dict())
    return f"trained for this run: {steps} steps on other phantoms, accelerated, {seconds:.0f} s"


def _write(
    options: argparse.Namespace,
    source: _Source,
    setup: results.Setup,
    accelerated: nn.Module,
    comparison: Comparison,
    labels: NDArray[np.integer],
    dice: dict[str, float] | None,
) -> list[Path]:
    prediction = options.output / "prediction.nii.gz"
    save_nifti(prediction, from_ras(labels, source.volume.affine), like=source.volume)
    picture = options.output / "demo.png"
    results.draw_picture(picture, setup, comparison, labels, source.phantom)
    facts = options.output / "demo.json"
    results.write_json(facts, setup, accelerated, comparison, dice, vars(options))
    first = [] if source.phantom is None else [source.path, options.output / "phantom_labels.nii.gz"]
    return [*first, prediction, picture, facts]
