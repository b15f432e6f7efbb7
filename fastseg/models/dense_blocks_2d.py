"""The DenseBlocks of the 2D DenseUNet: three convolutions, each of the concatenation of all earlier outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastseg.models.conv_blocks import conv_3x3
from fastseg.models.layers import layers
from fastseg.models.upsampling import UpsampleConcatConv, Upsampling


class ConvNormPReLU2d(nn.Sequential):
    """3x3 convolution, batch norm and PReLU with a slope for each channel: ``conv``, ``norm``, ``act``."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = conv_3x3(in_channels, out_channels, stride, bias=False)  # the norm would undo a bias
        self.norm = layers().BatchNormAct2d(out_channels, activation="none")
        self.act = nn.PReLU(out_channels)


class DenseBlock2d(nn.Module):
    """Two times convolution, batch norm, PReLU, and a last convolution, each of [x, all earlier outputs].

    Args:
        in_channels: of the input, (N, C, H, W).
        growth: channels of the first two convolutions.
        out_channels: of the last convolution.
        dropout: share of the channels that are dropped after each activation.
    """

    def __init__(self, in_channels: int, growth: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = ConvNormPReLU2d(in_channels, growth)
        self.second = ConvNormPReLU2d(in_channels + growth, growth)
        self.last = conv_3x3(in_channels + 2 * growth, out_channels)
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.dropout(self.first(x))], 1)
        x = torch.cat([x, self.dropout(self.second(x))], 1)
        y: Tensor = self.last(x)
        return y


class DecoderDenseBlock2d(nn.Module):
    """A 1x1 convolution with bias of the skip connection beside the up-sampled features, then a :class:`DenseBlock2d`.

    ``forward(skip, features)``: (N, skip_channels, H, W) and (N, channels, H/2, W/2) to (N, out_channels, H, W).
    """

    def __init__(
        self,
        skip_channels: int,
        channels: int,
        growth: int,
        out_channels: int,
        *,
        dropout: float = 0.0,
        upsampling: Upsampling = "nearest",
    ) -> None:
        super().__init__()
        self.reduce = UpsampleConcatConv(2, skip_channels, channels, out_channels, upsampling=upsampling)
        self.dense = DenseBlock2d(out_channels, growth, out_channels, dropout=dropout)

    def forward(self, skip: Tensor, features: Tensor) -> Tensor:
        y: Tensor = self.dense(self.reduce(skip, features))
        return y
