"""ResUNet with context enhancement and atrous spatial pyramid pooling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from fastseg.models.conv_blocks import check_widths, conv_3x3
from fastseg.models.layers import layers
from fastseg.models.network import SegmentationNetwork
from fastseg.models.resnet34 import ResNet34
from fastseg.models.resnet_weights import load_resnet


class ResUNetCEASPP(SegmentationNetwork):
    """ResNet-34, context enhancement (CE), ASPP, and a decoder whose features are added to the encoder's.

    The paper: 110 patients of TCGA-LGG, learning rate 1e-3, batches of 8, 300 epochs; accuracy .9669, AUC .8477,
    sensitivity .9893.

    Args:
        in_channels, out_channels: of the image and the logits.
        widths: channels of the encoder's stem and of its four stages.
        encoder_weights: a file with the state_dict of a ResNet-34 (keys ``conv1.weight``, ``layer1.0.conv1.weight``,
            ...; ``fc.*`` is left out) that the encoder starts from.
        ce_dilations: of the separable convolutions in CE, which are in series.
        aspp_dilations: of the branches of ASPP.
        aspp_channels: of each branch of ASPP.
        separable: whether the branches of ASPP are depthwise-separable.
        image_pooling: a branch of ASPP with the mean of each channel.
        stem_skip: whether the last decoder block's output is added to the stem's features, as the others' outputs are
            to the stages'.

    Raises:
        ValueError: widths that are not five numbers, or no dilations.
        WeightsError: a file that does not hold a ResNet-34.
    """

    name = "resunet_ce_aspp"
    channels_last = True
    only_at_start = ("encoder_weights",)

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 2,
        *,
        widths: Sequence[int] = (64, 64, 128, 256, 512),
        encoder_weights: str | os.PathLike[str] | None = None,
        ce_dilations: Sequence[int] = (1, 2, 4, 8),
        aspp_dilations: Sequence[int] = (1, 6, 12, 18),
        aspp_channels: int = 256,
        separable: bool = False,
        image_pooling: bool = False,
        stem_skip: bool = True,
    ) -> None:
        check_widths(self.name, widths, 5)
        super().__init__(
            spatial_dims=2, in_channels=in_channels, out_channels=out_channels, size_divisor=32, output="softmax"
        )
        self.stem_skip = stem_skip
        self.encoder = ResNet34(in_channels, widths)
        if encoder_weights is not None:
            load_resnet(self.encoder, encoder_weights)
        widest = widths[-1]
        self.context = layers().ContextEnhancement(widest, ce_dilations)
        aspp = layers().SeparableASPP2d if separable else layers().ASPP2d
        self.aspp = aspp(widest, widest, aspp_dilations, branch_channels=aspp_channels, image_pooling=image_pooling)
        self.decoder = nn.ModuleList(_DecoderBlock(*pair) for pair in pairwise(widths[::-1]))
        self.head = nn.Sequential(
            layers().DenseConvTranspose2d(widths[0], 32, 4, 2, 1),
            nn.ReLU(inplace=True),
            conv_3x3(32, 32),
            nn.ReLU(inplace=True),
            layers().PointwiseConv2d(32, out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, out_channels, H, W) of images (N, in_channels, H, W)."""
        self.check_input(x)
        stem, *skips, x = self.encoder(x)
        x = self.aspp(self.context(x))
        for block, skip in zip(self.decoder, (*skips[::-1], stem if self.stem_skip else None), strict=True):
            x = block(x)
            if skip is not None:
                x = x + skip
        return self.head(x)


class _DecoderBlock(nn.Module):
    """A 1x1 convolution to a quarter of the channels, a transposed 3x3 one of stride 2, a 1x1 one: each BN and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = max(inputs // 4, 1)
        self.conv1 = layers().PointwiseConv2d(inputs, inner, False)
        self.norm1 = layers().BatchNormAct2d(inner)
        self.upsample = layers().DenseConvTranspose2d(inner, inner, 3, 2, padding=1, output_padding=1, bias=False)
        self.norm2 = layers().BatchNormAct2d(inner)
        self.conv3 = layers().PointwiseConv2d(inner, outputs, False)
        self.norm3 = layers().BatchNormAct2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        x = self.norm2(self.upsample(x))
        return self.norm3(self.conv3(x))
