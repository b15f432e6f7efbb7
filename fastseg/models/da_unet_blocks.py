"""The blocks of the 3D-DA-UNet: dense block, attention block, localization module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastseg.models.conv_blocks import conv_3x3x3
from fastseg.models.conv_norm_act_3d import ConvNormAct3d, NormActDropout3d, ResidualBlock3d
from fastseg.models.layers import layers
from fastseg.models.recompute import made_again, values_of
from fastseg.models.upsampling import UpsampleConcatConv, Upsampling


class DenseBlock3d(nn.Module):
    """[x, y] with y = two times convolution, instance norm, LeakyReLU of x.

    ``forward(x)``: (N, channels, D, H, W) to (N, channels + growth, D, H, W).
    """

    def __init__(self, channels: int, growth: int, *, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.first = ConvNormAct3d(channels, growth, negative_slope=negative_slope)
        self.second = ConvNormAct3d(growth, growth, negative_slope=negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        make_x, make_y = values_of(x), values_of(y)
        return made_again(torch.cat([x, y], 1), lambda: torch.cat([make_x(), make_y()], 1))


class AttentionBlock3d(nn.Module):
    """A skip connection weighted by a soft mask: (1 + sigmoid(S)) * T of a 3x3x3 convolution of the input.

    T, the trunk, is a residual block; S a convolution, instance norm, LeakyReLU and a 1x1x1 convolution.

    ``forward(x)``: (N, in_channels, D, H, W) to (N, channels, D, H, W).
    """

    def __init__(self, in_channels: int, channels: int, *, dropout: float = 0.0, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.entry = conv_3x3x3(in_channels, channels)
        self.trunk = ResidualBlock3d(channels, dropout=dropout, negative_slope=negative_slope)
        self.features = ConvNormAct3d(channels, channels, dropout=dropout, negative_slope=negative_slope)
        self.soft_mask: Any = layers().SoftMaskAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        y: Tensor = self.soft_mask(self.trunk(x), self.features(x))
        return y


class LocalizationModule3d(nn.Module):
    """Attention output and up-sampled features to fewer channels by a 1x1x1 convolution, and a small residual block.

    ``forward(skip, features)``: (N, skip_channels, *size) and (N, channels, *size / 2) to (N, out_channels, *size).
    """

    def __init__(
        self,
        skip_channels: int,
        channels: int,
        out_channels: int,
        *,
        convs: int = 1,
        negative_slope: float = 0.01,
        upsampling: Upsampling = "nearest",
    ) -> None:
        super().__init__()
        self.reduce = UpsampleConcatConv(3, skip_channels, channels, out_channels, bias=False, upsampling=upsampling)
        self.act = NormActDropout3d(out_channels, negative_slope=negative_slope)
        self.residual = ResidualBlock3d(out_channels, convs=convs, negative_slope=negative_slope)

    def forward(self, skip: Tensor, features: Tensor) -> Tensor:
        y: Tensor = self.residual(self.act(self.reduce(skip, features)))
        return y
