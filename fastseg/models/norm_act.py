"""Norm, residual and relu as one layer, of either norm."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from fastseg.models.layers import layers

Norm = Literal["batch", "instance"]
NORMS = ("batch", "instance")


def norm_relu(norm: Norm, channels: int, spatial_dims: int) -> nn.Module:
    """A layer that is called with x, or x and a residual: relu(norm(x) + residual)."""
    name = "BatchNormAct" if norm == "batch" else "InstanceNormAct"
    layer: nn.Module = dimensional(name, spatial_dims)(channels, affine=True, activation="relu")
    return layer


def dimensional(name: str, spatial_dims: int) -> Any:
    """The class of :func:`~fastseg.models.layers.layers` or of torch.nn whose name ends in ``2d`` or ``3d``."""
    full = f"{name}{spatial_dims}d"
    return getattr(layers(), full, None) or getattr(nn, full)
