"""The papers' networks as fastseg makes them, and the same networks of plain torch layers with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import fastseg
from fastseg import models
from fastseg.models.registry import network_class


@dataclass(frozen=True)
class Case:
    """What a network is timed on.

    Attributes:
        shape: of the input.
        options: of ``fastseg.models.create``.
        trained: whether it has a training step: the cascade's stages are trained one by one.
        compiled: whether torch.compile is among its peers: the cascade looks at its data to place the cut-out.
    """

    shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    trained: bool = True
    compiled: bool = True


CASES = {
    "unet": Case((2, 3, 256, 256)),
    "unet_cbam": Case((2, 3, 256, 256)),
    "resunet": Case((8, 3, 256, 256)),
    "resunet_ce_aspp": Case((2, 3, 256, 256)),
    "msfen": Case((2, 4, 256, 256)),
    "dense_unet_2d": Case((2, 4, 240, 240)),
    "da_unet_3d": Case((1, 4, 64, 64, 64)),
    "dm_da_unet": Case((1, 4, 96, 96, 48), {"crop_size": 64}, trained=False, compiled=False),
}


def fused(name: str) -> nn.Module:
    """The network as a user gets it, always with the same weights."""
    torch.manual_seed(0)
    return models.create(name, **CASES[name].options)


def plain(name: str, channels_last: bool) -> nn.Module:
    with fastseg.backend("reference"):
        network = models.create(name, channels_last=channels_last, **CASES[name].options)
    network.load_state_dict(_weights(name))
    return network


@lru_cache(1)  # peers of one network follow each other
def _weights(name: str) -> dict[str, Tensor]:
    return fused(name).state_dict()


def compiled(name: str) -> nn.Module:
    """In the layout that fastseg takes by default."""
    torch._dynamo.reset()
    return torch.compile(plain(name, network_class(name).channels_last))


OURS = "fastseg"
PEERS: dict[str, Callable[[str], nn.Module]] = {
    OURS: fused,
    "eager": lambda name: plain(name, False),
    "eager, channels-last": lambda name: plain(name, True),
    "torch.compile": compiled,
}


def runs(training: bool) -> list[tuple[str, str]]:
    """Names of networks and peers."""
    return [
        (name, peer)
        for name, case in CASES.items()
        for peer in PEERS
        if (case.trained or not training) and (peer != "torch.compile" or case.compiled)
    ]


def truth(network: Any, shape: tuple[int, ...]) -> Tensor:
    """A random map of classes or regions, as the network's loss takes it."""
    generator = torch.Generator().manual_seed(1)
    if network.output == "softmax":
        return torch.randint(network.out_channels, (shape[0], *shape[2:]), generator=generator)
    return torch.rand((shape[0], network.out_channels, *shape[2:]), generator=generator) < 0.2
