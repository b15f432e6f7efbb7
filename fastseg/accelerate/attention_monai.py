"""MONAI's squeeze and excitation over a fused op. Imported when a model of MONAI is met; no state of its own."""

from __future__ import annotations

from typing import Any

from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from torch import Tensor

from fastseg import ops


class FusedChannelSELayer(ChannelSELayer):
    def forward(self, x: Tensor) -> Tensor:
        fc1: Any = self.fc[0]
        fc2: Any = self.fc[2]
        y = ops.squeeze_excitation(x, fc1.weight, fc2.weight, fc1_bias=fc1.bias, fc2_bias=fc2.bias)
        return y + x if self.add_residual else y
