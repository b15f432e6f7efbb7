"""Dense convolutions whose output has the input's size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastseg.ops.checks import check_image
from fastseg.ops.same_conv import pays, same_conv


class _SameConv(nn.modules.conv._ConvNd):
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
        of_torch: Any = super().__init__
        of_torch(in_channels, out_channels, kernel_size, bias=bias, device=device, dtype=dtype, **axes)

    def forward(self, input: Tensor) -> Tensor:
        name = type(self).__name__
        check_image(name, "input", input, self.weight.ndim)
        if input.shape[1] != self.in_channels:
            raise ValueError(
                f"{name}: input has {input.shape[1]} channels (shape {tuple(input.shape)}), expected "
                f"in_channels={self.in_channels}"
            )
        if not pays(input, self.weight):
            y: Tensor = super().forward(input)
            return y
        return same_conv(input, self.weight, self.bias, self.dilation)


class SameConv2d(_SameConv, nn.Conv2d):
    """``torch.nn.Conv2d`` of stride 1 with "same" padding of zeros, and its state_dict keys.

    Where it pays, on the CPU in float32 and float64, it runs as one branch of :func:`fastseg.ops.aspp_conv2d`, and
    elsewhere as torch's convolution.

    Args:
        in_channels: of the input, (N, C, H, W).
        out_channels: of the output.
        kernel_size: odd.
        dilation: of the kernel.
        bias: whether there is one.

    Raises:
        ValueError: an even kernel size; an input of another rank or number of channels.
    """


class SameConv3d(_SameConv, nn.Conv3d):
    """:class:`SameConv2d` for volumes, (N, C, D, H, W)."""
