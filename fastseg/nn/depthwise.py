"""Convolution layers with one filter a channel, and with filters of one pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg import ops
from fastseg.ops.geometry import Axes, Padding


def _check_input(layer: Any, input: Tensor) -> None:
    name, rank = type(layer).__name__, len(layer.kernel_size)
    if input.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"{name}: input has shape {tuple(input.shape)}, expected rank {rank + 2}, or {rank + 1} without a batch"
        )
    channels = input.shape[-rank - 1]
    if channels != layer.in_channels:
        raise ValueError(
            f"{name}: input has {channels} channels (shape {tuple(input.shape)}), expected {layer.in_channels}"
        )


def _batched(layer: Any, input: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """``run`` on a batch; an image without a batch axis becomes a batch of one."""
    _check_input(layer, input)
    if input.ndim == len(layer.kernel_size) + 2:
        return run(input)
    return run(input.unsqueeze(0)).squeeze(0)


class _DepthwiseConv(nn.modules.conv._ConvNd):
    _op: Callable[..., Tensor]

    def __init__(
        self,
        channels: int,
        kernel_size: Axes,
        stride: Axes = 1,
        padding: Padding = 0,
        dilation: Axes = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        channel_multiplier: int = 1,
    ) -> None:
        arguments: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "padding_mode": padding_mode,
        }
        # torch's own layer follows in the order of base classes.
        super().__init__(
            channels,
            channels * channel_multiplier,
            kernel_size,  # type: ignore[arg-type]
            groups=channels,
            bias=bias,
            device=device,
            dtype=dtype,
            **arguments,
        )

    def forward(self, input: Tensor) -> Tensor:
        if "_conv_forward" in self.__dict__:  # somebody's own, which torch's layer calls
            y: Tensor = super().forward(input)
            return y
        return _batched(self, input, self._convolve)

    def _convolve(self, x: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return type(self)._op(x, self.weight, self.bias, stride=self.stride, padding=padding, dilation=self.dilation)


class DepthwiseConv2d(_DepthwiseConv, nn.Conv2d):
    """``torch.nn.Conv2d(channels, channels * channel_multiplier, groups=channels)`` with its state_dict keys.

    Args:
        channels: of the input, (N, C, H, W) or (C, H, W).
        kernel_size: of the filters; ``stride``, ``padding``, ``dilation``, ``bias`` and ``padding_mode`` as in
            :class:`torch.nn.Conv2d`.
        channel_multiplier: filters for each channel.
    """

    _op = staticmethod(ops.depthwise_conv2d)


class DepthwiseConv3d(_DepthwiseConv, nn.Conv3d):
    """``torch.nn.Conv3d(channels, channels * channel_multiplier, groups=channels)`` with its state_dict keys.

    Arguments as in :class:`DepthwiseConv2d`; the input is (N, C, D, H, W) or (C, D, H, W).
    """

    _op = staticmethod(ops.depthwise_conv3d)


class _DepthwiseConvTranspose(nn.modules.conv._ConvTransposeNd):
    _op: Callable[..., Tensor]

    def __init__(
        self,
        channels: int,
        kernel_size: Axes,
        stride: Axes = 1,
        padding: Axes = 0,
        output_padding: Axes = 0,
        bias: bool = True,
        dilation: Axes = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        arguments: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "dilation": dilation,
        }
        super().__init__(
            channels,
            channels,
            kernel_size,
            groups=channels,
            bias=bias,
            device=device,
            dtype=dtype,
            **arguments,
        )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return _batched(self, input, lambda x: self._convolve(x, output_size))

    def _convolve(self, x: Tensor, output_size: list[int] | None) -> Tensor:
        geometry: Any = (self.stride, self.padding, self.kernel_size, len(self.kernel_size), self.dilation)
        output_padding = self._output_padding(x, output_size, *geometry)
        return type(self)._op(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=output_padding,
            dilation=self.dilation,
        )


class DepthwiseConvTranspose2d(_DepthwiseConvTranspose, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d(channels, channels, groups=channels)`` with its arguments and state_dict keys."""

    _op = staticmethod(ops.depthwise_conv_transpose2d)


class DepthwiseConvTranspose3d(_DepthwiseConvTranspose, nn.ConvTranspose3d):
    """``torch.nn.ConvTranspose3d(channels, channels, groups=channels)`` with its arguments and state_dict keys."""

    _op = staticmethod(ops.depthwise_conv_transpose3d)


class _PointwiseConv(nn.modules.conv._ConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        groups: int = 1,
    ) -> None:
        arguments: dict[str, Any] = {"kernel_size": 1, "bias": bias, "groups": groups, "device": device, "dtype": dtype}
        super().__init__(in_channels, out_channels, **arguments)

    def forward(self, input: Tensor) -> Tensor:
        return _batched(self, input, lambda x: ops.pointwise_conv(x, self._dense_weight(), self.bias))

    def _dense_weight(self) -> Tensor:
        """Of groups as of one product, with zeros between them: less work than an image apart for each group."""
        if self.groups == 1:
            return self.weight
        blocks = torch.block_diag(*self.weight.flatten(1).chunk(self.groups))
        return blocks.view(*blocks.shape, *self.weight.shape[2:])


class PointwiseConv2d(_PointwiseConv, nn.Conv2d):
    """``torch.nn.Conv2d(in_channels, out_channels, 1, groups=groups)`` with its state_dict keys; for few groups."""


class PointwiseConv3d(_PointwiseConv, nn.Conv3d):
    """``torch.nn.Conv3d(in_channels, out_channels, 1, groups=groups)`` with its state_dict keys; for few groups."""


class _DepthwiseSeparableConv(nn.Sequential):
    _depthwise: type[_DepthwiseConv]
    _pointwise: type[_PointwiseConv]
    _op: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Axes,
        stride: Axes = 1,
        padding: Padding = 0,
        dilation: Axes = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            self._depthwise(
                in_channels, kernel_size, stride, padding, dilation, bias=False, device=device, dtype=dtype
            ),
            self._pointwise(in_channels, out_channels, bias, device, dtype),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Both in one call where nothing watches the layer between: then one kernel may do both."""
        if not all(map(is_unwatched, self)) or self[0].padding_mode != "zeros":
            return super().forward(input)
        return _batched(self[0], input, self._convolve)

    def _convolve(self, x: Tensor) -> Tensor:
        depthwise, pointwise = self
        return type(self)._op(
            x,
            depthwise.weight,
            pointwise.weight,
            depthwise_bias=depthwise.bias,
            pointwise_bias=pointwise.bias,
            stride=depthwise.stride,
            padding=depthwise.padding,
            dilation=depthwise.dilation,
        )


def is_unwatched(layer: nn.Module) -> bool:
    """Whether a layer is one of ours and has no hooks, which would have to see its input and output."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return isinstance(layer, (_DepthwiseConv, _PointwiseConv)) and "forward" not in vars(layer) and not any(hooks)


class DepthwiseSeparableConv2d(_DepthwiseSeparableConv):
    """A depthwise convolution without bias, then a 1x1 convolution: keys ``0.weight``, ``1.weight``, ``1.bias``.

    Args:
        in_channels: of the input, (N, C, H, W) or (C, H, W).
        out_channels: of the output.
        kernel_size: of the depthwise convolution, as are ``stride``, ``padding`` and ``dilation``.
        bias: of the 1x1 convolution.
    """

    _depthwise, _pointwise, _op = DepthwiseConv2d, PointwiseConv2d, staticmethod(ops.depthwise_separable_conv2d)


class DepthwiseSeparableConv3d(_DepthwiseSeparableConv):
    """:class:`DepthwiseSeparableConv2d` for volumes, (N, C, D, H, W) or (C, D, H, W)."""

    _depthwise, _pointwise, _op = DepthwiseConv3d, PointwiseConv3d, staticmethod(ops.depthwise_separable_conv3d)
