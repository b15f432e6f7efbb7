"""3x3x3 convolutions, with and without stride."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.models.layers import wants_plain
from fastseg.ops.same_conv import pays, runs_im2col, same_conv


class Conv3d(nn.Conv3d):
    """``torch.nn.Conv3d(in_channels, out_channels, 3, stride, padding=1)`` with its state_dict keys.

    Without stride it runs as :class:`fastseg.nn.SameConv3d`. With stride, one small volume, which torch would leave to
    im2col, is convolved as a batch of two halves, which overlap by what the kernel needs: torch takes oneDNN for any
    batch of two. Built from plain torch, the layer is torch's.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, stride, 1, bias=bias)
        self.plain = wants_plain()

    def forward(self, input: Tensor) -> Tensor:
        stride = self.stride[0]
        if self.plain:
            return super().forward(input)
        if stride == 1 and pays(input, self.weight):
            return same_conv(input, self.weight, self.bias, self.dilation)
        if not runs_im2col(input) or input.shape[2] % (2 * stride):
            return super().forward(input)
        half = input.shape[2] // 2
        padded = F.pad(input, (0, 0, 0, 0, 1, 1))
        reach = half + 3 - stride
        batch = torch.cat([padded[:, :, :reach], padded[:, :, half : half + reach]])
        y = F.conv3d(batch, self.weight, self.bias, self.stride, (0, 1, 1))
        return y.transpose(0, 1).flatten(1, 2).unsqueeze(0)  # a view where channels are last
