"""MONAI's layer factory with fused norms, for networks that are built from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from monai.networks.layers.factories import Norm
from torch import nn

from fastseg.nn import InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d

#: ``norm=`` of MONAI's networks, as it is or with arguments: ``("instance_fastseg", {"affine": True})``.
NORM = "INSTANCE_FASTSEG"


def add_norm() -> str:
    """Give MONAI's factory of norms the name ``"instance_fastseg"``: :class:`fastseg.nn.InstanceNormAct2d` and kin.

    The layers have the arguments and keys of torch's instance norms. ``activation`` is ``"none"`` unless it is given;
    MONAI's own follows as ever. :func:`fastseg.accelerate`, on the network as MONAI builds it, joins norms with their
    activations instead. Harmless to call again.

    Returns:
        The name.
    """
    if NORM not in Norm.names:
        Norm.add_factory_callable(NORM, _instance_norm, "Instance norm of fastseg")
    return NORM


def _instance_norm(dim: int) -> Callable[..., nn.Module]:
    layer = (InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d)[dim - 1]
    return partial(layer, activation="none")
