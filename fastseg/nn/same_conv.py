"""Dense convolutions whose output has the input's size."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastseg import ops
from fastseg.ops.checks import check_image


class SameConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` of stride 1 with "same" padding of zeros, and its state_dict keys.

    float32 and float64 run as one branch of :func:`fastseg.ops.aspp_conv2d`; 16-bit numbers, also by autocast, as
    torch's convolution.

    Args:
        in_channels: of the input, (N, C, H, W).
        out_channels: of the output.
        kernel_size: odd.
        dilation: of the kernel.
        bias: whether there is one.

    Raises:
        ValueError: an even kernel size.
    """

    #: Gradients of the weight are contiguous: in another layout each would be copied, which took 3 % of a U-Net's step.
    channels_last_weight: ClassVar[bool] = False

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
            raise ValueError(f"SameConv2d: kernel_size is {kernel_size}, expected an odd number")
        padding = dilation * (kernel_size - 1) // 2
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=padding,
            dilation=dilation,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        check_image("SameConv2d", "input", input, 4)
        if not runs_ours(input):
            return super().forward(input)
        return ops.aspp_conv2d(input, [self.weight], dilations=[self.dilation], biases=[self.bias])


def runs_ours(x: Tensor) -> bool:
    """Whether products of ``x`` are ours: for 16-bit ones processors have instructions that our kernels have not."""
    return x.dtype.itemsize > 2 and not torch.is_autocast_enabled(x.device.type)
