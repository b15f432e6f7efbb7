"""Up-sampling in the decoders of U-Nets, with the 1x1 convolutions around it done where there are fewer voxels."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg import ops
from fastseg.models.layers import layers, wants_plain
from fastseg.ops.checks import check_choice

Upsampling = Literal["nearest", "linear"]
UPSAMPLINGS = ("nearest", "linear")
_LINEAR = {4: "bilinear", 5: "trilinear"}


def upsample(x: Tensor, factor: int, mode: Upsampling) -> Tensor:
    """(N, C, *spatial) with each spatial size ``factor`` times as large."""
    if factor == 1:
        return x
    if mode == "nearest":
        return F.interpolate(x, scale_factor=factor, mode="nearest")
    return F.interpolate(x, scale_factor=factor, mode=_LINEAR[x.ndim], align_corners=False)


def upsample_concat_conv(
    skip: Tensor,
    features: Tensor,
    skip_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mode: Upsampling = "nearest",
) -> Tensor:
    """A 1x1 convolution of ``skip`` (N, S, *size) beside ``features`` (N, F, *size / 2), which are up-sampled by two.

    Up-sampling repeats or averages voxels with weights that sum to one, so that a 1x1 convolution may come before it:
    there it sees an eighth of the voxels (a quarter in 2D), and neither the up-sampled features nor the concatenation
    are made.

    Args:
        skip_weight, weight: (O, S, 1, ...) and (O, F, 1, ...), the filters' parts for the two.
        bias: (O,) or None.
    """
    coarse = ops.pointwise_conv(features, weight)
    if mode == "linear":
        coarse = upsample(coarse, 2, mode)
    return ops.pointwise_conv(skip, skip_weight, bias, residual=coarse)


class UpsampleConcatConv(nn.Module):
    """A 1x1 convolution, ``conv``, of a skip connection beside features up-sampled by two.

    It is :func:`upsample_concat_conv`; built from plain torch, the layer does what its name says.

    Args:
        spatial_dims: 2 or 3.
        skip_channels, channels: of the skip connection and of the features.
        out_channels: of the convolution.
        bias: of the convolution.
        upsampling: ``"nearest"`` or ``"linear"``.

    ``forward(skip, features)``: (N, skip_channels, *size) and (N, channels, *size / 2) to (N, out_channels, *size).
    """

    def __init__(
        self,
        spatial_dims: int,
        skip_channels: int,
        channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        upsampling: Upsampling = "nearest",
    ) -> None:
        super().__init__()
        check_choice(type(self).__name__, "upsampling", upsampling, UPSAMPLINGS)
        pointwise: Any = layers().PointwiseConv2d if spatial_dims == 2 else layers().PointwiseConv3d
        self.conv = pointwise(skip_channels + channels, out_channels, bias)
        self.skip_channels = skip_channels
        self.upsampling: Upsampling = upsampling
        self.rearranged = not wants_plain()

    def forward(self, skip: Tensor, features: Tensor) -> Tensor:
        if not self.rearranged:
            return self.conv(torch.cat([skip, upsample(features, 2, self.upsampling)], 1))
        of_skip, of_features = self.conv.weight.split((self.skip_channels, features.shape[1]), 1)
        return upsample_concat_conv(skip, features, of_skip, of_features, self.conv.bias, self.upsampling)

    def extra_repr(self) -> str:
        return f"skip_channels={self.skip_channels}, upsampling={self.upsampling}"
