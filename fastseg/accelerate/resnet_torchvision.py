"""torchvision's residual blocks with fused norms. Imported when a model of it is met; no state of their own."""

from __future__ import annotations

from torchvision.models.resnet import BasicBlock, Bottleneck

from fastseg.accelerate.resnet_blocks import FusedBasicForward, FusedBottleneckForward


class FusedBasicBlock(FusedBasicForward, BasicBlock):
    pass


class FusedBottleneck(FusedBottleneckForward, Bottleneck):
    pass
