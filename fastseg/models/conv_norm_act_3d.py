"""3x3x3 convolution, instance norm, LeakyReLU and dropout of whole channels: what the 3D-DA-UNet is made of."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastseg import ops
from fastseg.models.conv_blocks import conv_3x3x3
from fastseg.models.layers import layers, wants_plain
from fastseg.models.recompute import made_again


class NormActDropout3d(nn.Module):
    """leaky_relu(dropout(instance_norm(x)) + residual), whole channels dropped: ``norm.weight`` and ``norm.bias``.

    A dropped channel is zero before LeakyReLU as after it. Dropout scales channels, so that for a batch of one it is
    folded into the norm's weight and bias and costs no pass of its own.
    """

    def __init__(self, channels: int, *, dropout: float = 0.0, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.norm: Any = layers().InstanceNormAct3d(channels, affine=True, negative_slope=negative_slope)
        self.dropout = dropout
        self.negative_slope = negative_slope
        self.folds = not wants_plain()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        weight, bias, eps = self.norm.weight, self.norm.bias, self.norm.eps
        drops = self.training and self.dropout > 0
        if self.folds and (not drops or len(x) == 1):
            if drops:
                kept = F.dropout3d(weight.new_ones(1, len(weight), 1, 1, 1), self.dropout).flatten()
                weight, bias = weight * kept, bias * kept
            fused = partial(ops.instance_norm_act, negative_slope=self.negative_slope, eps=eps)
            y: Tensor = fused(x, weight, bias, residual=residual)
            # With a residual the norm keeps y itself, for LeakyReLU.
            return y if residual is not None else made_again(y, partial(fused, x.detach(), weight, bias))
        if not drops:
            y = self.norm(x, residual)
            return y
        if self.folds:
            y = ops.instance_norm_act(x, weight, bias, activation="none", eps=eps)
        else:
            y = F.instance_norm(x, None, None, weight, bias, eps=eps)
        y = F.dropout3d(y, self.dropout)
        return F.leaky_relu(y if residual is None else y.add_(residual), self.negative_slope, inplace=True)

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"


class ConvNormAct3d(nn.Module):
    """``conv``, a 3x3x3 convolution, and ``act``, a :class:`NormActDropout3d`.

    ``forward(x, residual=None)``: the residual is added before LeakyReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dropout: float = 0.0,
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = conv_3x3x3(in_channels, out_channels, stride, bias=False)  # the norm would undo a bias
        self.act = NormActDropout3d(out_channels, dropout=dropout, negative_slope=negative_slope)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y: Tensor = self.act(self.conv(x), residual)
        return y


class ResidualBlock3d(nn.Module):
    """``convs`` times :class:`ConvNormAct3d`, the input added before the last LeakyReLU.

    ``forward(x)``: (N, channels, D, H, W) to the same shape.
    """

    def __init__(self, channels: int, *, convs: int = 2, dropout: float = 0.0, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ConvNormAct3d(channels, channels, dropout=dropout, negative_slope=negative_slope) for _ in range(convs)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        last = len(self.convs) - 1
        for i, conv in enumerate(self.convs):
            y = conv(y, residual=x if i == last else None)
        return y
