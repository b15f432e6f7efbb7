"""A 3x3x3 convolution of one small volume, which torch would compute without its fast library."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.layers import wants_plain

# ATen (use_mkldnn in Convolution.cpp) leaves float32 batches of one to im2col unless the product of the first four
# sizes is above this. Measured, im2col takes 2 to 10 times as long.
_SMALL = 20480


class Conv3d(nn.Conv3d):
    """``torch.nn.Conv3d(in_channels, out_channels, 3, stride, padding=1)`` with its state_dict keys.

    One small volume is convolved as a batch of two halves, which overlap by what the kernel needs: torch takes oneDNN
    for any batch of two. Built from plain torch, the layer is torch's.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, stride, 1, bias=bias)
        self.halves = not wants_plain()

    def forward(self, input: Tensor) -> Tensor:
        stride = self.stride[0]
        if not (self.halves and _runs_im2col(input)) or input.shape[2] % (2 * stride):
            return super().forward(input)
        half = input.shape[2] // 2
        padded = F.pad(input, (0, 0, 0, 0, 1, 1))
        reach = half + 3 - stride
        batch = torch.cat([padded[:, :, :reach], padded[:, :, half : half + reach]])
        y = F.conv3d(batch, self.weight, self.bias, self.stride, (0, 1, 1))
        return y.transpose(0, 1).flatten(1, 2).unsqueeze(0)  # a view where channels are last


def _runs_im2col(x: Tensor) -> bool:
    small = len(x) == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= _SMALL
    return small and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
