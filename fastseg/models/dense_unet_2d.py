"""The first stage of DM-DA-UNet: a 2D DenseUNet on axial slices, which says where the glioma is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fastseg.models.conv_blocks import check_dropout, check_widths
from fastseg.models.dense_blocks_2d import ConvNormPReLU2d, DecoderDenseBlock2d, DenseBlock2d
from fastseg.models.layers import layers
from fastseg.models.network import Output, SegmentationNetwork
from fastseg.models.upsampling import Upsampling


class DenseUNet2d(SegmentationNetwork):
    """2DDenseUnet of "Glioma Segmentation Based on DM-DA-Unet", section 3.2.

    From the paper: a U-Net of DenseBlocks, each three 3x3 convolutions with batch norm and PReLU between them, where
    each sees the concatenation of the block's input and all earlier outputs; stride-2 convolutions instead of pooling;
    in the decoder a 1x1 convolution with bias before the three. The paper gives no widths, no kind of up-sampling and
    no dropout; stride-2 convolutions carry a batch norm and PReLU too, because two convolutions with nothing between
    them are one.

    Args:
        in_channels: of the slices (N, C, H, W): T1, T1ce, T2 and FLAIR.
        out_channels: background and the BraTS labels 1, 2, 4. The whole tumour's probability is one minus the first.
        widths: channels of each level's output, from the finest; the last is that of the bottom.
        growth: channels of a block's first two convolutions, for each level; None: ``widths``.
        dropout: share of the channels that are dropped after each activation inside the blocks.
        upsampling: ``"nearest"`` or ``"linear"``.
        output: ``"softmax"``, or ``"sigmoid"`` for regions, of which the first is the whole tumour.
    """

    name = "dense_unet_2d"
    channels_last = True

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        *,
        widths: Sequence[int] = (32, 64, 128, 256),
        growth: Sequence[int] | None = None,
        dropout: float = 0.0,
        upsampling: Upsampling = "nearest",
        output: Output = "softmax",
    ) -> None:
        check_widths(self.name, widths)
        growth = widths if growth is None else growth
        check_widths(self.name, growth, len(widths), argument="growth")
        check_dropout(self.name, dropout)
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            size_divisor=2 ** (len(widths) - 1),
            output=output,
        )
        inputs = (in_channels, *widths[1:])
        self.encoder = nn.ModuleList(
            DenseBlock2d(channels, g, width, dropout=dropout)
            for channels, g, width in zip(inputs, growth, widths, strict=True)
        )
        self.down = nn.ModuleList(ConvNormPReLU2d(fine, coarse, stride=2) for fine, coarse in pairwise(widths))
        self.decoder = nn.ModuleList(
            DecoderDenseBlock2d(fine, coarse, g, fine, dropout=dropout, upsampling=upsampling)
            for (fine, coarse), g in zip(pairwise(widths), growth[:-1], strict=True)
        )
        self.head = layers().PointwiseConv2d(widths[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to logits (N, out_channels, H, W)."""
        self.check_input(x)
        skips = []
        for block, down in zip(self.encoder[:-1], self.down, strict=True):
            skips.append(block(x))
            x = down(skips[-1])
        x = self.encoder[-1](x)
        for block in reversed(self.decoder):
            x = block(skips.pop(), x)
        logits: Tensor = self.head(x)
        return logits
