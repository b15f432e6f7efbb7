"""What torch's convolutions are; rules for those with one filter a channel, and for SMP's separable ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from fastseg.accelerate.planning import Left, Rule, Step, Swap, Uses, join
from fastseg.accelerate.swap import full_name, record_of, stock_class
from fastseg.nn import (
    DepthwiseConv2d,
    DepthwiseConv3d,
    DepthwiseConvTranspose2d,
    DepthwiseConvTranspose3d,
    PointwiseConv2d,
    PointwiseConv3d,
)
from fastseg.ops.geometry import axes

DEPTHWISE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: DepthwiseConv2d,
    nn.Conv3d: DepthwiseConv3d,
    nn.ConvTranspose2d: DepthwiseConvTranspose2d,
    nn.ConvTranspose3d: DepthwiseConvTranspose3d,
}
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POINTWISE: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: PointwiseConv2d, nn.Conv3d: PointwiseConv3d}


def is_replaced(conv: nn.Module) -> bool:
    """Whether somebody put a forward of his own on this one convolution, or what torch's forward calls."""
    return "forward" in vars(conv) or "_conv_forward" in vars(conv)


def is_depthwise(module: nn.Module) -> bool:
    """Any convolution with one group a channel, but for the layers of ours that the model's author put there."""
    if isinstance(module, tuple(DEPTHWISE.values())) and record_of(module) is None:
        return False
    return isinstance(module, _CONVOLUTIONS) and module.groups == module.in_channels > 1


def depthwise_refusal(module: nn.Module) -> str | None:
    """Why ``module`` cannot become a depthwise layer of ours (or is no depthwise convolution)."""
    cls = stock_class(module)
    if cls not in DEPTHWISE:
        return f"{cls.__name__} may compute something else than torch's convolution"
    if not is_depthwise(module):
        return "it has not one group for each channel"
    if is_replaced(module):
        return "its forward was replaced on the instance"
    if module.transposed and module.out_channels != module.in_channels:
        return "a transposed convolution with a channel multiplier has no kernel"
    return None


def is_dense(module: nn.Module) -> bool:
    """A convolution of all channels, not a transposed one, and not one whose class or forward is somebody's own."""
    return (
        isinstance(module, (nn.Conv2d, nn.Conv3d))
        and stock_class(module) in POINTWISE
        and module.groups == 1
        and not is_replaced(module)
    )


def is_pointwise(module: Any) -> bool:
    """Whether a layer of ours can take the place of ``module``: a 1x1 convolution without stride, padding or groups."""
    return (
        is_dense(module)
        and set(module.kernel_size) == set(axes(module.stride, 1)) == {1}
        and (isinstance(module.padding, str) or not any(axes(module.padding, 1)))
    )


def padding_refusal(conv: Any) -> str | None:
    """Why the output has not the size of the input, padded with zeros."""
    rank = len(conv.kernel_size)
    same = tuple(d * (k - 1) / 2 for k, d in zip(conv.kernel_size, axes(conv.dilation, rank), strict=True))
    padding = conv.padding if isinstance(conv.padding, str) else axes(conv.padding, rank)
    if set(axes(conv.stride, rank)) != {1} or padding not in ("same", same) or conv.padding_mode != "zeros":
        return "only branches with stride 1, padded with zeros to the input's size, run as one"
    return None


def swap_pointwise(path: str, module: nn.Module) -> Swap:
    replacement = POINTWISE[stock_class(module)]
    return Swap(path, module, replacement, replacement.__name__)


class DepthwiseRule(Rule):
    """nn.Conv and nn.ConvTranspose with one group a channel."""

    def matches(self, module: nn.Module) -> bool:
        return is_depthwise(module)

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        if (why := depthwise_refusal(module)) is not None:
            yield Left(path, module, why)
        else:
            replacement = DEPTHWISE[stock_class(module)]
            yield Swap(path, module, replacement, replacement.__name__)


class SMPSeparableRule(Rule):
    """SeparableConv2d of segmentation_models_pytorch: a Sequential; its depthwise layer is left to DepthwiseRule."""

    _STOCK = "segmentation_models_pytorch.decoders.deeplabv3.decoder.SeparableConv2d"

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) == self._STOCK

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        layer = module._modules.get("1")
        if layer is not None and record_of(layer) is None and is_pointwise(layer):
            yield swap_pointwise(join(path, "1"), layer)
