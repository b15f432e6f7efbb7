"""The losses of the papers in plain form, on logits: :func:`create_loss` by name, :func:`default_loss` of a network.

What they share: logits of 16 bits are computed in float32, under autocast, too; gradients are finite where a class is
absent and where the prediction is perfect.
"""

from __future__ import annotations

import inspect
from typing import Any

from fastseg.models.network import SegmentationNetwork
from fastseg.models.registry import list_models
from fastseg.ops.checks import check_choice
from fastseg.training.paper_losses import (
    CrossEntropy,
    DiceCrossEntropy,
    FocalTversky,
    GeneralizedDiceCrossEntropy,
    RegionDice,
    SegmentationLoss,
)

__all__ = [
    "CrossEntropy",
    "DiceCrossEntropy",
    "FocalTversky",
    "GeneralizedDiceCrossEntropy",
    "RegionDice",
    "SegmentationLoss",
    "create_loss",
    "default_loss",
    "list_losses",
]

_LOSSES: dict[str, type[SegmentationLoss]] = {
    cls.name: cls for cls in (CrossEntropy, DiceCrossEntropy, GeneralizedDiceCrossEntropy, RegionDice, FocalTversky)
}
#: Of each network the loss of its paper. Paper A (resunet_ce_aspp) names none. (choice)
_DEFAULTS = {
    "resunet_ce_aspp": "cross_entropy",
    "dense_unet_2d": "generalized_dice_cross_entropy",
    "da_unet_3d": "region_dice",
    "unet": "cross_entropy",
    "unet_cbam": "cross_entropy",
    "msfen": "dice_cross_entropy",
    "resunet": "focal_tversky",
}


def list_losses() -> list[str]:
    """The names that :func:`create_loss` takes."""
    return list(_LOSSES)


def create_loss(name: str, **kwargs: Any) -> SegmentationLoss:
    """A loss by name.

    Args:
        name: one of :func:`list_losses`.
        kwargs: of the loss's class, whose docstring explains them; ``output`` is that of the network.

    Raises:
        ValueError: ``name`` is no loss, or the loss refuses a value.
        TypeError: an argument that the loss does not have.
    """
    check_choice("create_loss", "name", name, _LOSSES)
    known = list(inspect.signature(_LOSSES[name]).parameters)
    for argument in kwargs:
        if argument not in known:
            raise TypeError(f"create_loss: {name} has no argument {argument!r}, expected one of {', '.join(known)}")
    return _LOSSES[name](**kwargs)


def default_loss(network: str | SegmentationNetwork, **kwargs: Any) -> SegmentationLoss:
    """The loss of the network's paper.

    Args:
        network: its name, or the network itself, whose ``output`` the loss then takes.
        kwargs: replace the loss's own arguments.

    Raises:
        ValueError: no network of that name, the cascade ``dm_da_unet``, whose two networks are trained one by one, or
            an output that the loss does not take.
    """
    name = network if isinstance(network, str) else network.name
    if name == "dm_da_unet":
        raise ValueError(
            "default_loss: network is 'dm_da_unet', expected one of its two: 'dense_unet_2d', 'da_unet_3d'"
        )
    if name not in _DEFAULTS:
        raise ValueError(f"default_loss: network is {name!r}, expected one of {', '.join(map(repr, list_models()))}")
    if not isinstance(network, str):
        kwargs = {"output": network.output, **kwargs}
    return create_loss(_DEFAULTS[name], **kwargs)
