"""MONAI's residual blocks with fused norms. Imported when a model of MONAI is met; no state of their own."""

from __future__ import annotations

from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck

from fastseg.accelerate.resnet_blocks import FusedBasicForward, FusedBottleneckForward


class FusedResNetBlock(FusedBasicForward, ResNetBlock):
    pass


class FusedResNetBottleneck(FusedBottleneckForward, ResNetBottleneck):
    pass
