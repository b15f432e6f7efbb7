"""Dense convolutions whose output has the input's size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastseg import ops
from fastseg.backends import availability, select
from fastseg.backends.views import memory_format
from fastseg.ops.checks import check_image

#: Whether kernels for this processor's vectors run; those for any processor were never timed beside oneDNN.
_WIDE = availability.COMPILED is not None and availability.COMPILED.cpu_capability() != "baseline"
#: Inputs and outputs from which our kernel is the faster one. Measured on four cores with AVX-512 in both layouts: from
#: 24 channels on torch takes 1.0 to 1.6 times as long channels-last and 1 to 4 times contiguous, below 0.5 to 1.2.
ENOUGH_CHANNELS = 24
#: Outputs of this size torch has from the system each time, and waits for its pages: then 0.8 to 9 times as long.
FRESH_BYTES = 32 << 20


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
        return same_conv(input, self)


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
        ValueError: an even kernel size.
    """


class SameConv3d(_SameConv, nn.Conv3d):
    """:class:`SameConv2d` for volumes, (N, C, D, H, W)."""


def same_conv(x: Tensor, conv: Any) -> Tensor:
    """A convolution layer of stride 1 with "same" padding of zeros, by our op."""
    # As torch's convolutions, which return channels-last where one of both is.
    if conv.weight.stride(1) == 1 and conv.weight.shape[2:].numel() > 1:
        x = x.to(memory_format=memory_format("channels_last", x.ndim - 2))
    op = ops.aspp_conv2d if x.ndim == 4 else ops.aspp_conv3d
    return op(x, [conv.weight], dilations=[conv.dilation], biases=[conv.bias])


def runs_ours(x: Tensor) -> bool:
    """Whether products of ``x`` are ours: for 16-bit ones processors have instructions that our kernels have not."""
    return x.dtype.itemsize > 2 and not torch.is_autocast_enabled(x.device.type)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer that may also call torch's convolution is to call ours: there is a kernel, and it is faster.

    Of few channels oneDNN is faster, unless kernels are 1x1, where its output lies in memory that it had before. Not in
    torch.export, which would keep limits as sizes.
    """
    forced = select.forced()
    if x.device.type != "cpu" or forced is not None:
        return forced == "cpu"
    if (
        not _WIDE
        or not runs_ours(x)
        or torch.compiler.is_exporting()
        or select.runs_reference(f"aspp_conv{x.ndim - 2}d", x)
    ):
        return False
    outputs, inputs = weight.shape[:2]
    large = len(x) * outputs * x.shape[2:].numel() * x.itemsize >= FRESH_BYTES
    return weight.shape[2:].numel() == 1 or large or min(outputs, inputs) >= ENOUGH_CHANNELS or runs_im2col(x)


def runs_im2col(x: Tensor) -> bool:
    """Whether torch takes a batch of one small float32 volume to im2col, for 2 to 10 times as long as oneDNN.

    As ATen's use_mkldnn in Convolution.cpp has it: the product of the first four sizes is not above 20480.
    """
    small = x.ndim == 5 and len(x) == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= 20480
    return small and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
