"""MONAI's DynUNet and SegResNet blocks with the activation, and the residual, inside the norms.

Imported when a model of MONAI is met. The classes have no state of their own.
"""

from __future__ import annotations

from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from monai.networks.blocks.segresnet_block import ResBlock
from torch import Tensor

from fastseg.accelerate.fusion import take_activation


class FusedUnetBasicBlock(UnetBasicBlock):
    def forward(self, inp: Tensor) -> Tensor:
        out: Tensor
        if not take_activation(self.norm1, self.norm2):
            out = super().forward(inp)
            return out
        out = self.norm2(self.conv2(self.norm1(self.conv1(inp))))
        return out


class FusedUnetResBlock(UnetResBlock):
    def forward(self, inp: Tensor) -> Tensor:
        y: Tensor
        if not take_activation(self.norm1, self.norm2):
            y = super().forward(inp)
            return y
        # The stock order of the convolutions: each may end in dropout, which draws random numbers.
        out = self.conv2(self.norm1(self.conv1(inp)))
        residual = inp
        if hasattr(self, "conv3"):
            residual = self.conv3(residual)
        if hasattr(self, "norm3"):
            residual = self.norm3(residual)
        y = self.norm2(out, residual)
        return y


class FusedResBlock(ResBlock):
    """Of SegResNet, whose norms stand before the convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        if not take_activation(self.norm1, self.norm2):
            y = super().forward(x)
            return y
        y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        y += x
        return y
