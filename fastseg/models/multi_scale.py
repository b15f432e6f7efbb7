"""The multi-scale block of MSFEN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastseg.models.layers import layers
from fastseg.models.norm_act import Norm, dimensional, norm_relu


class MultiScaleBlock(nn.Module):
    """x + Ms(Mc(relu(norm(branches(x))))): features at several scales, weighted by attention.

    The branches are depthwise-separable convolutions of several kernel sizes, side by side. Mc, the channel attention
    over all of them, weighs the scales against each other for each image; Ms is spatial attention.

    Args:
        channels: of x and of the output, (N, C, *spatial).
        spatial_dims, kernel_sizes, norm, reduction, attention_kernel: as in :class:`fastseg.models.msfen.MSFEN`.
    """

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        kernel_sizes: Sequence[int],
        norm: Norm,
        reduction: int,
        attention_kernel: int,
    ) -> None:
        super().__init__()
        self.branches = dimensional("MultiScaleConv", spatial_dims)(channels, channels, kernel_sizes, bias=False)
        self.norm = norm_relu(norm, channels, spatial_dims)
        # A narrow level keeps one channel at least between the dense layers.
        self.attention = layers().CBAM(channels, min(reduction, channels), attention_kernel, spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        # In place: attention does not need its output for backward.
        y: Tensor = self.attention(self.norm(self.branches(x)))
        return y.add_(x)
