"""The residual stages of ResNet-34."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.conv_blocks import conv_3x3
from fastseg.models.layers import layers


class ResNet34(nn.Module):
    """ResNet-34 (He et al. 2016, arXiv:1512.03385) without its head, with the state_dict keys of torchvision's.

    ``forward`` gives the features of the stem and of the four stages, of ``widths`` channels at 1/2, 1/4, 1/8, 1/16 and
    1/32 of the image's size.
    """

    def __init__(self, in_channels: int = 3, widths: Sequence[int] = (64, 64, 128, 256, 512)) -> None:
        super().__init__()
        stem, first, second, third, fourth = widths
        self.conv1 = nn.Conv2d(in_channels, stem, 7, 2, 3, bias=False)
        self.bn1 = layers().BatchNormAct2d(stem)
        self.layer1 = _stage(stem, first, 3, stride=1)
        self.layer2 = _stage(first, second, 4)
        self.layer3 = _stage(second, third, 6)
        self.layer4 = _stage(third, fourth, 3)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.bn1(self.conv1(x))]
        x = F.max_pool2d(features[0], 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def _stage(inputs: int, outputs: int, blocks: int, stride: int = 2) -> nn.Sequential:
    rest = [_BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(_BasicBlock(inputs, outputs, stride), *rest)


class _BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + x), where x goes through a 1x1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_3x3(inputs, outputs, stride, bias=False)
        self.bn1 = layers().BatchNormAct2d(outputs)
        self.conv2 = conv_3x3(outputs, outputs, bias=False)
        self.bn2 = layers().BatchNormAct2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            norm = layers().BatchNormAct2d(outputs, activation="none")
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.bn1(self.conv1(x)))
        return self.bn2(y, x if self.downsample is None else self.downsample(x))
