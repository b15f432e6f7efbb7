"""Weights of ResNets as torchvision and others publish them."""

from __future__ import annotations

import os

import torch
from torch import nn

from fastseg.models.weights import WeightsError, fit, read_weights


def load_resnet(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load the state_dict of a whole ResNet into one without its head ``fc``, which is left out.

    What such files may lack starts at zero: counts of batches (files of torch before 0.4.1) and biases of convolutions.

    Raises:
        WeightsError: as :func:`fastseg.models.weights.load_weights`.
    """
    state = {key: value for key, value in read_weights(path)[0].items() if not key.startswith("fc.")}
    if "conv1.weight" not in state or "layer1.0.conv1.weight" not in state:
        raise WeightsError(f"{path}: holds no ResNet, expected keys such as conv1.weight and layer1.0.conv1.weight")
    convolutions = [f"{name}.bias" for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    for key, value in network.state_dict().items():
        if key.endswith(".num_batches_tracked") or key in convolutions:
            state.setdefault(key, torch.zeros_like(value))
    fit(network, state, path)
