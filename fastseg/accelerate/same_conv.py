"""Dense convolutions of other people: our kernel where it pays, and otherwise torch's own layer with nothing added."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastseg.accelerate.convolutions import is_dense, padding_refusal
from fastseg.accelerate.planning import Rule, Step, Swap, Uses
from fastseg.accelerate.swap import stock_class
from fastseg.ops import pointwise_conv
from fastseg.ops.same_conv import pays, same_conv


class _SwappedConv(_ConvNd):
    """Stands before torch's layer in the order of base classes."""

    def forward(self, input: Tensor) -> Tensor:
        # What torch's layer takes beside batches, or refuses, is left to it.
        if input.ndim == self.weight.ndim and input.shape[1] == self.in_channels and pays(input, self.weight):
            if set(self.kernel_size) == {1}:
                return pointwise_conv(input, self.weight, self.bias)
            return same_conv(input, self.weight, self.bias, self.dilation)
        y: Tensor = super().forward(input)
        return y


class SwappedConv2d(_SwappedConv, nn.Conv2d):
    """torch.nn.Conv2d of stride 1 with "same" padding."""


class SwappedConv3d(_SwappedConv, nn.Conv3d):
    """torch.nn.Conv3d of stride 1 with "same" padding."""


DENSE: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: SwappedConv2d, nn.Conv3d: SwappedConv3d}


class SameConvRule(Rule):
    """nn.Conv2d and nn.Conv3d without stride, padded with zeros to the size of their input."""

    def matches(self, module: nn.Module) -> bool:
        return is_dense(module) and padding_refusal(module) is None

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        replacement = DENSE[stock_class(module)]
        yield Swap(path, module, replacement, replacement.__name__)
