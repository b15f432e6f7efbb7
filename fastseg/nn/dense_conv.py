"""Convolutions of all channels, with and without strides, and transposed ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastseg.ops.checks import check_image
from fastseg.ops.dense_beside_torch import conv_if_it_pays, conv_transpose_if_it_pays


class _DenseConv(nn.modules.conv._ConvNd):
    """Stands before torch's layer in the order of base classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, expected in (("groups", 1), ("padding_mode", "zeros")):
            if getattr(self, name) != expected:
                raise ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected!r}")

    def _check(self, input: Tensor) -> None:
        name = type(self).__name__
        check_image(name, "input", input, self.weight.ndim)
        if input.shape[1] != self.in_channels:
            raise ValueError(
                f"{name}: input has {input.shape[1]} channels (shape {tuple(input.shape)}), expected "
                f"in_channels={self.in_channels}"
            )


class _Conv(_DenseConv):
    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        y: Tensor | None = None
        if self.padding_mode == "zeros":
            y = conv_if_it_pays(input, self.weight, self.bias, self.stride, self.padding, self.dilation)
        return super().forward(input) if y is None else y


class DenseConv2d(_Conv, nn.Conv2d):
    """``torch.nn.Conv2d`` of all channels, padded with zeros: its arguments and state_dict keys.

    Where it pays, on the CPU in float32 and float64, it runs as :func:`fastseg.ops.dense_conv`, and elsewhere as
    torch's convolution. Input (N, C, H, W).

    Raises:
        ValueError: groups or another padding mode; an input of another rank or number of channels.
        TypeError: an integer or complex input.
    """


class DenseConv3d(_Conv, nn.Conv3d):
    """:class:`DenseConv2d` for volumes, (N, C, D, H, W)."""


class _ConvTranspose(_DenseConv):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        self._check(input)
        y: Tensor | None = None
        if output_size is None:
            y = conv_transpose_if_it_pays(
                input, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.dilation
            )
        return super().forward(input, output_size) if y is None else y


class DenseConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` of all channels: its arguments and state_dict keys.

    Where it pays, on the CPU in float32 and float64, it runs as :func:`fastseg.ops.dense_conv_transpose` or
    :func:`fastseg.ops.up_conv`, and elsewhere, and where ``forward`` gets an ``output_size``, as torch's. Input
    (N, C, H, W).

    Raises:
        ValueError: groups; an input of another rank or number of channels.
        TypeError: an integer or complex input.
    """


class DenseConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """:class:`DenseConvTranspose2d` for volumes, (N, C, D, H, W)."""


class _SameConv(_Conv):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        dilation: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"{type(self).__name__}: kernel_size is {kernel_size}, expected an odd number")
        axes: dict[str, Any] = {"padding": dilation * (kernel_size - 1) // 2, "dilation": dilation}
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, device=device, dtype=dtype, **axes)


class SameConv2d(_SameConv, DenseConv2d):
    """:class:`DenseConv2d` of stride 1, whose output has the input's size.

    Args:
        in_channels: of the input, (N, C, H, W).
        out_channels: of the output.
        kernel_size: odd.
        dilation: of the kernel.
        bias: whether there is one.

    Raises:
        ValueError: an even kernel size; an input of another rank or number of channels.
    """


class SameConv3d(_SameConv, DenseConv3d):
    """:class:`SameConv2d` for volumes, (N, C, D, H, W)."""
