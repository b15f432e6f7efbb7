"""Dense convolutions of other people: our kernel where it pays, and otherwise torch's own layer with nothing added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fastseg.accelerate.convolutions import is_dense, is_replaced
from fastseg.accelerate.planning import Rule, Step, Swap, Uses
from fastseg.accelerate.swap import stock_class
from fastseg.ops.dense_beside_torch import conv_if_it_pays, conv_transpose_if_it_pays


class _SwappedConv(_ConvNd):
    """Stands before torch's layer in the order of base classes."""

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor | None = None
        if self.padding_mode == "zeros" and _is_ours(self, input):
            y = conv_if_it_pays(input, self.weight, self.bias, self.stride, self.padding, self.dilation)
        return super().forward(input) if y is None else y


class SwappedConv2d(_SwappedConv, nn.Conv2d):
    """torch.nn.Conv2d of all channels, padded with zeros."""


class SwappedConv3d(_SwappedConv, nn.Conv3d):
    """torch.nn.Conv3d of all channels, padded with zeros."""


class _SwappedConvTranspose(_ConvTransposeNd):
    """Stands before torch's layer in the order of base classes."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        y: Tensor | None = None
        if output_size is None and _is_ours(self, input):
            y = conv_transpose_if_it_pays(
                input, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.dilation
            )
        return super().forward(input, output_size) if y is None else y


class SwappedConvTranspose2d(_SwappedConvTranspose, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d of all channels."""


class SwappedConvTranspose3d(_SwappedConvTranspose, nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d of all channels."""


def _is_ours(layer: _ConvNd, input: Tensor) -> bool:
    """What torch's layer takes beside batches, or refuses, is left to it; and what was put on it since."""
    return (
        input.ndim == layer.weight.ndim
        and input.shape[1] == layer.in_channels
        and "_conv_forward" not in layer.__dict__
    )


DENSE: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: SwappedConv2d, nn.Conv3d: SwappedConv3d}
_TRANSPOSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.ConvTranspose2d: SwappedConvTranspose2d,
    nn.ConvTranspose3d: SwappedConvTranspose3d,
}


class DenseConvRule(Rule):
    """nn.Conv2d and nn.Conv3d of all channels, padded with zeros."""

    def matches(self, module: nn.Module) -> bool:
        return is_dense(module) and module.padding_mode == "zeros"

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        replacement = DENSE[stock_class(module)]
        yield Swap(path, module, replacement, replacement.__name__)


class DenseConvTransposeRule(Rule):
    """nn.ConvTranspose2d and nn.ConvTranspose3d of all channels."""

    def matches(self, module: nn.Module) -> bool:
        conv: Any = module
        return stock_class(module) in _TRANSPOSED and not is_replaced(module) and conv.groups == 1

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        replacement = _TRANSPOSED[stock_class(module)]
        yield Swap(path, module, replacement, replacement.__name__)
