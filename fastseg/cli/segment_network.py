"""The network of ``fastseg segment``, with its weights."""

from __future__ import annotations

import argparse

import torch

from fastseg.cli.errors import CommandError
from fastseg.models import SegmentationNetwork, create, list_models
from fastseg.models.weights import load_network, load_weights, read_weights


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
    else:
        named = read_weights(options.weights)[1].get("network")
        if named is not None and name not in (None, named):
            raise CommandError(f"--network {name}: {options.weights} holds weights of {named}")
        if named is not None:
            network, _ = load_network(options.weights)
        elif name is None:
            raise CommandError(f"{options.weights} does not say which network it is of: give --network")
        else:
            network = create(name)
            load_weights(network, options.weights)
    return network.eval().to(options.device)
