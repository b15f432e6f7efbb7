"""Up-convolutions of other people: our kernel where it pays, and otherwise torch's own layer with nothing added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from fastseg.accelerate.planning import Rule, Step, Swap, Uses
from fastseg.accelerate.swap import stock_class
from fastseg.ops.up_conv import pays, up_conv_as_torchs


class _SwappedConvTranspose(_ConvTransposeNd):
    """Stands before torch's layer in the order of base classes."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        # What torch's layer takes beside batches, or refuses, is left to it.
        batch = input.ndim == self.weight.ndim and input.shape[1] == self.in_channels
        if output_size is None and batch and pays(input, self.weight):
            return up_conv_as_torchs(input, self.weight, self.bias)
        y: Tensor = super().forward(input, output_size)
        return y


class SwappedConvTranspose2d(_SwappedConvTranspose, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d whose stride is its kernel."""


class SwappedConvTranspose3d(_SwappedConvTranspose, nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d whose stride is its kernel."""


_SWAPPED: dict[type[nn.Module], type[nn.Module]] = {
    nn.ConvTranspose2d: SwappedConvTranspose2d,
    nn.ConvTranspose3d: SwappedConvTranspose3d,
}


class UpConvRule(Rule):
    """nn.ConvTranspose2d and nn.ConvTranspose3d of all channels, whose stride is their kernel, without padding."""

    def matches(self, module: nn.Module) -> bool:
        conv: Any = module
        return (
            stock_class(module) in _SWAPPED
            and "forward" not in vars(module)
            and conv.groups == 1
            and conv.stride == conv.kernel_size
            and not any(conv.padding)
            and not any(conv.output_padding)
            and set(conv.dilation) == {1}
        )

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        replacement = _SWAPPED[stock_class(module)]
        yield Swap(path, module, replacement, replacement.__name__)
