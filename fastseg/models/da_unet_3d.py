"""The second stage of DM-DA-UNet: a 3D U-Net of dense blocks with attention on its skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastseg.models.conv_blocks import check_dropout, check_widths
from fastseg.models.conv_norm_act_3d import ConvNormAct3d
from fastseg.models.da_unet_blocks import AttentionBlock3d, DenseBlock3d, LocalizationModule3d
from fastseg.models.layers import wants_plain
from fastseg.models.multi_scale_fusion import MultiScaleFusion3d
from fastseg.models.network import Output, SegmentationNetwork
from fastseg.models.recompute import recomputing
from fastseg.models.upsampling import Upsampling


class DAUNet3d(SegmentationNetwork):
    """3D-DA-Unet of "Glioma Segmentation Based on DM-DA-Unet", sections 3.3 and 3.4.

    From the paper: an input module (3x3x3 convolution, instance norm, LeakyReLU); three dense blocks, each followed by
    a stride-2 convolution; skip connections through an attention block, (1 + S) T; three up-samplings, each followed by
    a localization module; all decoder stages through 1x1x1 convolutions, up-scaled to full size, summed, and a 1x1x1
    convolution to the regions; sigmoid. Input 128x128x128.

    The paper gives no widths and no share of dropout: both are those of the U-Net of Isensee et al. (2017,
    arXiv:1802.10508), whose modules it names, with dropout of whole channels. Stride-2 convolutions carry instance norm
    and LeakyReLU too. The loss averages over "four segmented regions", of which the paper names three (WT, TC, ET): the
    fourth is read as the background, ``out_channels=4``.

    Args:
        in_channels: of the volumes (N, C, X, Y, Z): T1, T1ce, T2 and FLAIR.
        out_channels: regions: whole tumour, tumour core, enhancing tumour, and with 4 the background behind them.
        widths: channels of each level, from the finest; the last is that of the bottom.
        growth: channels that each dense block adds; None: the width of its level.
        dropout: share of the channels that are dropped after each activation in the attention blocks.
        negative_slope: of LeakyReLU.
        upsampling: ``"nearest"`` or ``"linear"``.
        localization_convs: 3x3x3 convolutions in the residual block of a localization module.
        fusion_channels: of the sum of all decoder stages; None: the width of the finest level.
        output: ``"sigmoid"`` or ``"softmax"``.
        recompute: norms and concatenations are computed again in backward instead of being kept for it: the same
            numbers, in less memory. Ignored by plain torch and ``torch.compile``.
    """

    name = "da_unet_3d"
    channels_last = True

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        *,
        widths: Sequence[int] = (16, 32, 64, 128),
        growth: Sequence[int] | None = None,
        dropout: float = 0.3,
        negative_slope: float = 0.01,
        upsampling: Upsampling = "nearest",
        localization_convs: int = 1,
        fusion_channels: int | None = None,
        output: Output = "sigmoid",
        recompute: bool = True,
    ) -> None:
        check_widths(self.name, widths)
        levels = len(widths) - 1
        growth = widths[:-1] if growth is None else growth
        check_widths(self.name, growth, levels, argument="growth")
        check_dropout(self.name, dropout)
        for argument, value in (("localization_convs", localization_convs), ("fusion_channels", fusion_channels)):
            if value is not None and value < 1:
                raise ValueError(f"{self.name}: {argument} is {value}, expected a number >= 1")
        super().__init__(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            size_divisor=2**levels,
            output=output,
        )
        self.recompute = recompute and not wants_plain()
        slope: dict[str, Any] = {"negative_slope": negative_slope}
        fine = widths[:-1]
        dense = [width + g for width, g in zip(fine, growth, strict=True)]
        self.input = ConvNormAct3d(in_channels, widths[0], **slope)
        self.encoder = nn.ModuleList(DenseBlock3d(width, g, **slope) for width, g in zip(fine, growth, strict=True))
        self.down = nn.ModuleList(
            ConvNormAct3d(channels, width, stride=2, **slope) for channels, width in zip(dense, widths[1:], strict=True)
        )
        self.attention = nn.ModuleList(
            AttentionBlock3d(channels, width, dropout=dropout, **slope)
            for channels, width in zip(dense, fine, strict=True)
        )
        self.decoder = nn.ModuleList(
            LocalizationModule3d(width, coarse, width, convs=localization_convs, upsampling=upsampling, **slope)
            for width, coarse in pairwise(widths)
        )
        self.fusion = MultiScaleFusion3d(fine, fusion_channels or widths[0], out_channels, upsampling=upsampling)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, X, Y, Z) to logits (N, out_channels, X, Y, Z)."""
        self.check_input(x)
        if x.shape[2:].numel() == self.size_divisor**3:
            raise ValueError(
                f"{self.name}: x has spatial sizes {tuple(x.shape[2:])}, expected more than {self.size_divisor} in one "
                "of them: one voxel at the bottom has no variance"
            )
        if self.recompute and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            with recomputing():
                return self._logits(x)
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.input(x)
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            skips.append(block(x))
            x = down(skips[-1])
        stages: list[Tensor] = []
        for attention, module in zip(reversed(self.attention), reversed(self.decoder), strict=True):
            x = module(attention(skips.pop()), x)
            stages.insert(0, x)
        logits: Tensor = self.fusion(stages)
        return logits
