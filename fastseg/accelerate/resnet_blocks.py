"""The forward passes that residual blocks share, with the activations and the residual in the norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastseg.accelerate.fusion import take_activation


class FusedBasicForward(nn.Module):
    """Stands before a stock block of two convolutions in the order of base classes."""

    conv1: Any
    bn1: Any
    conv2: Any
    bn2: Any
    downsample: Any

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        if not take_activation(self.bn1, self.bn2):
            y = super().forward(x)
            return y
        y = self.conv2(self.bn1(self.conv1(x)))
        y = self.bn2(y, x if self.downsample is None else self.downsample(x))
        return y


class FusedBottleneckForward(nn.Module):
    """Stands before a stock block of three convolutions."""

    conv1: Any
    bn1: Any
    conv2: Any
    bn2: Any
    conv3: Any
    bn3: Any
    downsample: Any

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        if not take_activation(self.bn1, self.bn2, self.bn3):
            y = super().forward(x)
            return y
        y = self.conv3(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        y = self.bn3(y, x if self.downsample is None else self.downsample(x))
        return y
