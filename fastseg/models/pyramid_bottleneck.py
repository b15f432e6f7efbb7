"""Spatial pyramid pooling and two convolutions: the bottleneck of MSFEN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.norm_act import Norm, dimensional, norm_relu


class PyramidBottleneck(nn.Module):
    """Means over grids of several sizes beside the features, two 3x3 convolutions with norm and relu, dropout.

    Args:
        in_channels, out_channels: of input and output, (N, C, *spatial) of any size.
        spatial_dims: 2 or 3.
        pool_sizes: cells of each grid along an axis. Each grid's means pass a 1x1 convolution to an equal part of
            ``out_channels`` and relu, without a norm, since one cell has no variance, and are scaled up linearly.
        norm: of the 3x3 convolutions.
        dropout: of the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int,
        pool_sizes: Sequence[int],
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.pool_sizes = tuple(pool_sizes)
        part = max(1, out_channels // len(self.pool_sizes))
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.pool = F.adaptive_avg_pool2d if spatial_dims == 2 else F.adaptive_avg_pool3d
        self.scaling = "bilinear" if spatial_dims == 2 else "trilinear"
        self.pooled = nn.ModuleList(
            dimensional("PointwiseConv", spatial_dims)(in_channels, part) for _ in self.pool_sizes
        )
        inputs = in_channels + part * len(self.pool_sizes)
        self.conv1 = convolution(inputs, out_channels, 3, padding=1, bias=False)
        self.norm1 = norm_relu(norm, out_channels, spatial_dims)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm_relu(norm, out_channels, spatial_dims)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for size, conv in zip(self.pool_sizes, self.pooled, strict=True):
            cells = F.relu(conv(self.pool(x, size)))
            parts.append(F.interpolate(cells, x.shape[2:], mode=self.scaling, align_corners=False))
        y = self.norm1(self.conv1(torch.cat(parts, 1)))
        result: Tensor = self.dropout(self.norm2(self.conv2(y)))
        return result
