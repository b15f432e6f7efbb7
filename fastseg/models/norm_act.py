"""Norm, residual and relu as one layer, of either norm."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.conv_blocks import Norm
from fastseg.models.layers import layers

NORMS = ("batch", "instance")


def norm_relu(norm: Norm, channels: int, spatial_dims: int) -> nn.Module:
    """A layer that is called with x, or x and a residual: relu(norm(x) + residual)."""
    if norm == "batch":
        return (BatchNormReLU2d if spatial_dims == 2 else BatchNormReLU3d)(channels)
    layer: nn.Module = dimensional("InstanceNormAct", spatial_dims)(channels, affine=True, activation="relu")
    return layer


def dimensional(name: str, spatial_dims: int) -> Any:
    """The class of :func:`~fastseg.models.layers.layers` or of torch.nn whose name ends in ``2d`` or ``3d``."""
    full = f"{name}{spatial_dims}d"
    return getattr(layers(), full, None) or getattr(nn, full)


class _BatchNormReLU:
    def forward(self: Any, input: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(input)  # type: ignore[misc]
        # In place: a norm does not need its output for backward.
        return F.relu_(y if residual is None else y.add_(residual))


class BatchNormReLU2d(_BatchNormReLU, nn.BatchNorm2d):
    """relu(BatchNorm2d(x) + residual)."""


class BatchNormReLU3d(_BatchNormReLU, nn.BatchNorm3d):
    """relu(BatchNorm3d(x) + residual)."""
