"""Multi-scale fusion: the features of all decoder stages, brought to one size and summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastseg import ops
from fastseg.models.layers import layers, wants_plain
from fastseg.models.upsampling import Upsampling, upsample


class MultiScaleFusion3d(nn.Module):
    """1x1x1 convolutions of each stage (``stages``), up-scaled to full size and summed, and one more (``head``).

    All of it is linear and up-scaling leaves channels alone, so that the two convolutions are done as one, whose weight
    is their product, where there are fewest voxels; what is up-scaled are ``out_channels`` maps. Built from plain
    torch, the layer does what is written above.

    Args:
        channels: of each stage, from the finest; each stage is half as large as the one before.
        fusion_channels: of the sum.
        out_channels: of the last convolution.

    ``forward(features)``: one tensor (N, channels[i], *size / 2**i) for each stage to (N, out_channels, *size).
    """

    def __init__(
        self, channels: Sequence[int], fusion_channels: int, out_channels: int, *, upsampling: Upsampling = "nearest"
    ) -> None:
        super().__init__()
        pointwise: Any = layers().PointwiseConv3d
        self.stages: Any = nn.ModuleList(pointwise(number, fusion_channels) for number in channels)
        self.head = pointwise(fusion_channels, out_channels)
        self.upsampling: Upsampling = upsampling
        self.rearranged = not wants_plain()

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        if not self.rearranged:
            maps = [
                upsample(stage(x), 2**i, self.upsampling)
                for i, (stage, x) in enumerate(zip(self.stages, features, strict=True))
            ]
            fused = maps[0]
            for other in maps[1:]:
                fused = fused + other
            logits: Tensor = self.head(fused)
            return logits
        head = self.head.weight.flatten(1)
        constant = self.head.bias + head @ sum(stage.bias for stage in self.stages)
        y: Tensor | None = None
        for i, (stage, x) in reversed(list(enumerate(zip(self.stages, features, strict=True)))):
            weight = (head @ stage.weight.flatten(1)).view(-1, x.shape[1], 1, 1, 1)
            bias = None if i else constant
            if self.upsampling == "nearest":  # stage by stage: two times two is four
                y = ops.pointwise_conv(x, weight, bias, residual=y)
            else:
                z = upsample(ops.pointwise_conv(x, weight, bias), 2**i, "linear")
                y = z if y is None else z.add_(y)
        assert y is not None, "there is at least one stage"
        return y
