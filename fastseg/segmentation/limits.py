"""What fits into a limit of memory: how many windows at a time, and where sums over windows are held."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def window_bytes(network: nn.Module, window: Tensor) -> int:
    """Bytes of the outputs of all layers for one window: more than what is alive at any one time.

    Args:
        window: (1, C, *roi), on the network's device; the network runs once.
    """
    total = window.numel() * window.element_size()

    def count(layer: nn.Module, inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if not any(layer.children())]
    try:
        with torch.no_grad():
            network(window)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def batch_within(network: nn.Module, window: Tensor, *, limit: int, most: int) -> int:
    """How many windows at a time, from 1 to ``most``, keep the outputs of all layers within ``limit`` bytes."""
    return max(1, min(most, limit // window_bytes(network, window))) if most > 1 else 1


def accumulators_on(device: torch.device, channels: int, shape: tuple[int, ...], *, limit: int | None) -> torch.device:
    """Where the image and the sums over windows are: on a GPU if they take half of ``limit`` at most, else on the CPU.

    Args:
        channels: of the image and of the result together; one more is the windows' weights.
    """
    needed = 4 * (channels + 1) * math.prod(shape)
    return device if device.type == "cpu" or limit is None or 2 * needed <= limit else torch.device("cpu")
