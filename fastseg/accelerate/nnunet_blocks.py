"""nnU-Net's residual blocks with the residual and the last activation inside the last norm.

Imported when a model of dynamic_network_architectures is met. The classes have no state of their own.
"""

from __future__ import annotations

from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor

from fastseg.accelerate.fusion import take_activation


class ConvNormResidual(ConvDropoutNormReLU):
    """The last convolution of a residual block: act(norm(conv(x)) + residual), or without a residual the stock one."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None:
            stock: Tensor = super().forward(x)
            return stock
        *layers, norm = self.all_modules
        for layer in layers:
            x = layer(x)
        y: Tensor = norm(x, residual)
        return y


class FusedBasicBlockD(BasicBlockD):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        if not take_activation(self.conv2.all_modules[-1]):
            y = super().forward(x)
            return y
        residual = self.skip(x)
        y = self.conv2(self.conv1(x), residual)
        return y


class FusedBottleneckD(BottleneckD):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        if not take_activation(self.conv3.all_modules[-1]):
            y = super().forward(x)
            return y
        residual = self.skip(x)
        y = self.conv3(self.conv2(self.conv1(x)), residual)
        return y
