"""Up-sampling by transposed convolutions, beside the features that skip it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg import ops
from fastseg.ops.checks import check_image
from fastseg.ops.same_conv import runs_ours


class Upsample2d(nn.ConvTranspose2d):
    """``conv_transpose2d(x)`` with a kernel of 2x2 pixels and stride 2: each pixel becomes four.

    The parameters and keys are those of ``torch.nn.ConvTranspose2d(in_channels, out_channels, 2, 2)``. On CPUs it runs
    as one matrix product, whose outputs are then put side by side: torch's own took 2.5 to 3 times as long.

    ``forward`` takes x (N, in_channels, H, W); returns (N, out_channels, 2 H, 2 W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(in_channels, out_channels, 2, 2, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        _check("Upsample2d", x, self.in_channels)
        if x.device.type != "cpu" or not runs_ours(x):
            return super().forward(x)
        four = self.weight.permute(1, 2, 3, 0).reshape(4 * self.out_channels, self.in_channels, 1, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return F.pixel_shuffle(ops.pointwise_conv(x, four, bias), 2)


class UpsampleConcat2d(nn.ConvTranspose2d):
    """``torch.cat((skip, conv_transpose2d(x)), 1)`` with a kernel of 2x2 pixels and stride 2: each pixel becomes four.

    The parameters and keys are those of ``torch.nn.ConvTranspose2d(in_channels, out_channels, 2, 2)``. On CPUs,
    channels-last images run as one matrix product, whose output is written once, to its place beside ``skip``.

    ``forward`` takes x (N, in_channels, H, W) and skip (N, C, 2 H, 2 W); returns (N, C + out_channels, 2 H, 2 W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(in_channels, out_channels, 2, 2, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        _check("UpsampleConcat2d", x, self.in_channels)
        n, _, height, width = x.shape
        if skip.ndim != 4 or skip.shape[0] != n or skip.shape[2:] != (2 * height, 2 * width):
            raise ValueError(
                f"UpsampleConcat2d: skip has shape {tuple(skip.shape)}, expected ({n}, C, {2 * height}, {2 * width})"
            )
        if not _product_pays(x):
            return torch.cat((skip, super().forward(x)), 1)
        four = self.weight.permute(2, 3, 1, 0).reshape(4 * self.out_channels, self.in_channels, 1, 1)
        bias = None if self.bias is None else self.bias.repeat(4)
        # (N, H, 2, W, 2, C): a row of pixels of x is two rows of the output.
        up = ops.pointwise_conv(x, four, bias).permute(0, 2, 3, 1)
        up = up.reshape(n, height, width, 2, 2, self.out_channels).transpose(2, 3)
        beside = skip.permute(0, 2, 3, 1).reshape(n, height, 2, width, 2, skip.shape[1])
        joined = torch.cat((beside, up), -1)
        return joined.view(n, 2 * height, 2 * width, joined.shape[-1]).permute(0, 3, 1, 2)


def _check(name: str, x: Tensor, in_channels: int) -> None:
    check_image(name, "x", x, 4)
    if x.shape[1] != in_channels:
        raise ValueError(f"{name}: x has shape {tuple(x.shape)}, expected (N, {in_channels}, H, W)")


def _product_pays(x: Tensor) -> bool:
    """Where pixels are fewer than channels, bringing the weight into another order takes longer than it saves."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return channels_last and x.device.type == "cpu" and runs_ours(x) and x.numel() >= x.shape[1] ** 2
