"""Convolutions that the networks share, and the 2D ones' blocks of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.layers import layers
from fastseg.models.norm_act import NORMS, Norm, norm_relu


def conv_3x3(in_channels: int, out_channels: int, stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution with padding of 1."""
    conv: nn.Conv2d = layers().DenseConv2d(in_channels, out_channels, 3, stride, 1, bias=bias)
    return conv


def conv_3x3x3(in_channels: int, out_channels: int, stride: int = 1, *, bias: bool = True) -> nn.Conv3d:
    """The same of volumes."""
    conv: nn.Conv3d = layers().DenseConv3d(in_channels, out_channels, 3, stride, 1, bias=bias)
    return conv


class ConvNormRelu(nn.Module):
    """A 3x3 convolution, a norm or none, ReLU: keys ``conv.weight``, ``conv.bias`` (without a norm), ``norm.*``."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm | None = None) -> None:
        super().__init__()
        if norm not in (*NORMS, None):
            raise ValueError(f"ConvNormRelu: norm is {norm!r}, expected 'batch', 'instance' or None")
        self.conv = conv_3x3(in_channels, out_channels, bias=norm is None)
        self.norm = None if norm is None else norm_relu(norm, out_channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.relu_(y) if self.norm is None else self.norm(y)


class DoubleConv(nn.Sequential):
    """Two times :class:`ConvNormRelu`, then what ``attention`` is: keys ``0.*``, ``1.*``, ``2.*``."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: Norm | None = None, attention: nn.Module | None = None
    ) -> None:
        super().__init__(ConvNormRelu(in_channels, out_channels, norm), ConvNormRelu(out_channels, out_channels, norm))
        if attention is not None:
            self.append(attention)


def check_widths(network: str, widths: Sequence[int], levels: int | None = None, *, argument: str = "widths") -> None:
    """Channels of the levels, from the image down; ``argument`` is what the network calls them.

    Raises:
        ValueError: fewer than two levels, another number than ``levels``, or a width below 1.
    """
    wrong = len(widths) < 2 if levels is None else len(widths) != levels
    if wrong or min(widths) < 1:
        expected = "at least two" if levels is None else levels
        raise ValueError(f"{network}: {argument} is {tuple(widths)}, expected {expected} numbers >= 1")


def check_dropout(network: str, dropout: float) -> None:
    """Raises ValueError unless ``dropout`` is in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{network}: dropout is {dropout}, expected a share in [0, 1)")
