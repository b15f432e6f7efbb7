"""The network of ``fastseg segment``, with its weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fastseg.cli.errors import CommandError
from fastseg.models import SegmentationNetwork, create, list_models
from fastseg.models.da_unet_3d import DAUNet3d
from fastseg.models.dense_unet_2d import DenseUNet2d
from fastseg.models.dm_da_unet import DMDAUNet
from fastseg.models.weights import load_network, load_weights, read_weights
from fastseg.segmentation import cascade_of


def network_of(options: argparse.Namespace) -> SegmentationNetwork:
    """The network that the weights say, or ``--network`` with its default arguments; in eval mode, on the device.

    Raises:
        CommandError: a name that is none, or that is not the weights'; weights that do not say theirs.
        WeightsError: weights that cannot be read or do not fit.
    """
    name = options.network
    if name is not None and name not in list_models():
        raise CommandError(f"--network {name}: expected one of {', '.join(list_models())}")
    if options.weights is None:
        # One seed gives one network, whatever ran before, and what runs after does not notice.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.random_weights)
            network = create(name)
    elif len(options.weights) == 2:
        network = _cascade(name, *options.weights)
    else:
        network = _loaded(name, options.weights[0])
    return network.eval().to(options.device)


def _loaded(name: str | None, path: Path) -> SegmentationNetwork:
    named = read_weights(path)[1].get("network")
    if named is not None and name not in (None, named):
        raise CommandError(f"--network {name}: {path} holds weights of {named}")
    if named is not None:
        return load_network(path)[0]
    if name is None:
        raise CommandError(f"{path} does not say which network it is of: give --network")
    network = create(name)
    load_weights(network, path)
    return network


def _cascade(name: str | None, first: Path, second: Path) -> SegmentationNetwork:
    if name not in (None, DMDAUNet.name):
        raise CommandError(f"--network {name}: two files of --weights are the stages of {DMDAUNet.name}")
    localiser, segmenter = load_network(first)[0], load_network(second)[0]
    if not isinstance(localiser, DenseUNet2d) or not isinstance(segmenter, DAUNet3d):
        raise CommandError(
            f"--weights: {first} holds weights of {localiser.name} and {second} of {segmenter.name}, expected "
            f"{DenseUNet2d.name} and {DAUNet3d.name}"
        )
    try:
        return cascade_of(localiser, segmenter)
    except ValueError as error:
        raise CommandError(f"--weights: {error}") from error
