"""Names of the networks. A network's module is imported when the network is made."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from fastseg.accelerate.memory_format import channels_last_on
from fastseg.models.network import SegmentationNetwork

#: Name -> class, each in the module of that name.
_CLASSES = {
    "resunet_ce_aspp": "ResUNetCEASPP",
    "dense_unet_2d": "DenseUNet2d",
    "da_unet_3d": "DAUNet3d",
    "dm_da_unet": "DMDAUNet",
    "unet": "UNet",
    "unet_cbam": "UNetCBAM",
    "msfen": "MSFEN",
    "resunet": "ResUNet",
}


def list_models() -> list[str]:
    """The names that :func:`create` takes."""
    return list(_CLASSES)


def create(name: str, *, channels_last: bool | None = None, **kwargs: Any) -> SegmentationNetwork:
    """A network of one of the papers with random weights, in training mode.

    Inside ``with fastseg.backend("reference"):`` it is built from plain torch layers, with the same state_dict keys.

    Args:
        name: one of :func:`list_models`.
        channels_last: lay out parameters channels-last and convert inputs to match; None: as is fastest on a CPU.
        kwargs: of the network's class, whose docstring explains them.

    Raises:
        ValueError: ``name`` is no network, or the network refuses a value.
        TypeError: an argument that the network does not have.
    """
    cls = network_class(name)
    known = list(inspect.signature(cls).parameters)
    for argument in kwargs:
        if argument not in known:
            raise TypeError(f"create: {name} has no argument {argument!r}, expected one of {', '.join(known)}")
    network = cls(**kwargs)
    network.config = {argument: value for argument, value in kwargs.items() if argument not in cls.only_at_start}
    if cls.channels_last if channels_last is None else channels_last:
        channels_last_on(network)
    return network


def network_class(name: str) -> type[SegmentationNetwork]:
    """The class of a network; ValueError for a name that is none."""
    if name not in _CLASSES:
        raise ValueError(f"create: name is {name!r}, expected one of {', '.join(map(repr, _CLASSES))}")
    cls: type[SegmentationNetwork] = getattr(importlib.import_module(f"fastseg.models.{name}"), _CLASSES[name])
    return cls
