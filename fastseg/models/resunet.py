"""ResUNet of the study on TCGA-LGG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.conv_blocks import check_widths, conv_3x3
from fastseg.models.layers import layers, wants_plain
from fastseg.models.network import SegmentationNetwork
from fastseg.models.upsampling import upsample, upsample_concat_conv


class ResUNet(SegmentationNetwork):
    """ResUNet of "Head Tumor Segmentation and Detection Based on Resunet" (Deng et al. 2024).

    Two 3x3 convolutions, each with ReLU and then batch norm, max-pooling; residual blocks with max-pooling between,
    and on the way up nearest up-sampling, concatenation and residual blocks; 1x1 head.

    The paper: images of 3x256x256, 1,206,129 trainable parameters (1,210,513 with running statistics), focal Tversky
    loss, Adam. On TCGA-LGG Tversky .9168.

    Args:
        in_channels, out_channels: of the image and the logits; the output is ``"sigmoid"``.
        widths: channels of the stem and of each residual block, from the image down.
        block_bias: whether convolutions of residual blocks have a bias, as they have in the paper.
        eps, momentum: of the batch norms; momentum in torch's sense.

    Raises:
        ValueError: widths that are not two numbers at least.
    """

    name = "resunet"
    channels_last = True

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        *,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        block_bias: bool = True,
        eps: float = 1e-3,
        momentum: float = 0.01,
    ) -> None:
        check_widths(self.name, widths)
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            size_divisor=2 ** (len(widths) - 1),
            output="sigmoid",
        )
        norm: dict[str, Any] = {"eps": eps, "momentum": momentum}
        batch_norm = layers().BatchNormAct2d
        self.stem = nn.Sequential(
            conv_3x3(in_channels, widths[0]),
            nn.ReLU(inplace=True),
            batch_norm(widths[0], activation="none", **norm),
            conv_3x3(widths[0], widths[0]),
            nn.ReLU(inplace=True),
            batch_norm(widths[0], activation="none", **norm),
        )
        self.down = nn.ModuleList(_ResidualBlock(*pair, block_bias, norm) for pair in pairwise(widths))
        self.up = nn.ModuleList(
            _UpBlock(inputs, outputs, block_bias, norm) for inputs, outputs in pairwise(widths[::-1])
        )
        self.head = layers().PointwiseConv2d(widths[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, out_channels, H, W) of images (N, in_channels, H, W)."""
        self.check_input(x)
        x = self.stem(x)
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(F.max_pool2d(x, 2))
        for block in self.up:
            x = block(x, skips.pop())
        return self.head(x)


class _ResidualBlock(nn.Module):
    """relu(norm(conv3(relu(norm(conv1(x))))) + norm(conv1(x)))."""

    def __init__(self, inputs: int, outputs: int, bias: bool, norm: dict[str, Any]) -> None:
        super().__init__()
        pointwise, batch_norm = layers().PointwiseConv2d, layers().BatchNormAct2d
        self.conv1 = pointwise(inputs, outputs, bias)
        self.norm1 = batch_norm(outputs, **norm)
        self.conv2 = conv_3x3(outputs, outputs, bias=bias)
        self.norm2 = batch_norm(outputs, **norm)
        self.shortcut = pointwise(inputs, outputs, bias)
        self.shortcut_norm = batch_norm(outputs, activation="none", **norm)

    def forward(self, x: Tensor) -> Tensor:
        return self._from_convs(self.conv1(x), self.shortcut(x))

    def _from_convs(self, y: Tensor, shortcut: Tensor) -> Tensor:
        return self.norm2(self.conv2(self.norm1(y)), self.shortcut_norm(shortcut))


class _UpBlock(_ResidualBlock):
    """The residual block of features up-sampled by two beside a skip connection of as many channels as the output."""

    def __init__(self, inputs: int, outputs: int, bias: bool, norm: dict[str, Any]) -> None:
        super().__init__(inputs + outputs, outputs, bias, norm)
        self.rearranged = not wants_plain()

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        if not self.rearranged:
            return super().forward(torch.cat((upsample(features, 2, "nearest"), skip), 1))
        # Both convolutions as one: features and skip are read once, and tiles of few outputs are filled.
        weight = torch.cat((self.conv1.weight, self.shortcut.weight))
        bias = None if self.conv1.bias is None else torch.cat((self.conv1.bias, self.shortcut.bias))
        of_features, of_skip = weight.split((features.shape[1], skip.shape[1]), 1)
        outputs = upsample_concat_conv(skip, features, of_skip, of_features, bias)
        return self._from_convs(*outputs.chunk(2, 1))
