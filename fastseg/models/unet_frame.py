"""The frame of U-Net: blocks on the way down, up-sampling and blocks on the way up, with skips between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.conv_blocks import DoubleConv, check_widths
from fastseg.models.layers import layers, wants_plain
from fastseg.models.network import SegmentationNetwork
from fastseg.models.norm_act import Norm
from fastseg.nn import DenseConvTranspose2d


class UNetFrame(SegmentationNetwork):
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with padded convolutions, and attention where it is given.

    Channels-last is faster on a CPU: all convolutions read it as it lies, and up-sampling is a matrix product.

    Args:
        widths: channels of each level's block, from the image down; their number is that of the levels.
        norm: after each 3x3 convolution, or None; convolutions before a norm have no bias.
        up_kernel_size: of the transposed convolutions, 2 (each pixel becomes four), or 3 with a ReLU.
        attention: makes the layer after a block of so many channels; None for none.
    """

    channels_last = True

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        norm: Norm | None,
        up_kernel_size: int,
        attention: Callable[[int], nn.Module] | None = None,
    ) -> None:
        check_widths(self.name, widths)
        if up_kernel_size not in (2, 3):
            raise ValueError(f"{self.name}: up_kernel_size is {up_kernel_size}, expected 2 or 3")
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            size_divisor=2 ** (len(widths) - 1),
            output="softmax",
        )

        def block(inputs: int, outputs: int) -> DoubleConv:
            return DoubleConv(inputs, outputs, norm, None if attention is None else attention(outputs))

        self.down = nn.ModuleList(block(*pair) for pair in pairwise((in_channels, *widths)))
        upwards = list(pairwise(widths[::-1]))
        self.upsample = nn.ModuleList(_upsampling(*pair, up_kernel_size) for pair in upwards)
        self.up = nn.ModuleList(block(2 * outputs, outputs) for _, outputs in upwards)
        self.head = layers().PointwiseConv2d(widths[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, out_channels, H, W) of images (N, in_channels, H, W)."""
        self.check_input(x)
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for upsample, block in zip(self.upsample, self.up, strict=True):
            x = block(upsample(x, skips.pop()))
        return self.head(x)


def _upsampling(inputs: int, outputs: int, kernel_size: int) -> nn.Module:
    return layers().UpsampleConcat2d(inputs, outputs) if kernel_size == 2 else _Upsample3x3(inputs, outputs)


class _Upsample3x3(DenseConvTranspose2d):
    """A transposed 3x3 convolution of stride 2 with ReLU, beside the skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, 2, padding=1, output_padding=1)
        self.plain = wants_plain()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = nn.ConvTranspose2d.forward(self, x) if self.plain else super().forward(x)
        return torch.cat((skip, F.relu_(y)), 1)
