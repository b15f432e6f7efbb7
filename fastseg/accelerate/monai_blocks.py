"""MONAI's DynUNet blocks with the activation, and the residual, inside the norms.

Imported when a model of MONAI is met. The classes have no state of their own.
"""

from __future__ import annotations

from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from torch import Tensor


class FusedUnetBasicBlock(UnetBasicBlock):
    def forward(self, inp: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(self.norm1(self.conv1(inp))))
        return out


class FusedUnetResBlock(UnetResBlock):
    def forward(self, inp: Tensor) -> Tensor:
        # The stock order of the convolutions: each may end in dropout, which draws random numbers.
        out = self.conv2(self.norm1(self.conv1(inp)))
        residual = inp
        if hasattr(self, "conv3"):
            residual = self.conv3(residual)
        if hasattr(self, "norm3"):
            residual = self.norm3(residual)
        y: Tensor = self.norm2(out, residual)
        return y
