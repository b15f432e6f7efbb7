"""Up-sampling by transposed convolutions, alone and beside the features that skip it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastseg.ops.checks import check_image
from fastseg.ops.up_conv import pays, up_conv_as_torchs


class _Upsample(nn.modules.conv._ConvTransposeNd):
    """Stands before torch's layer in the order of base classes."""

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        of_torch: Any = super().__init__
        of_torch(in_channels, out_channels, 2, 2, bias=bias, device=device, dtype=dtype)

    def _upsampled(self, x: Tensor) -> Tensor:
        name, rank = type(self).__name__, self.weight.ndim
        check_image(name, "x", x, rank)
        if x.shape[1] != self.in_channels:
            spatial = ", ".join("DHW"[5 - rank :])
            raise ValueError(f"{name}: x has shape {tuple(x.shape)}, expected (N, {self.in_channels}, {spatial})")
        if pays(x, self.weight):
            return up_conv_as_torchs(x, self.weight, self.bias)
        y: Tensor = super().forward(x)
        return y


class Upsample2d(_Upsample, nn.ConvTranspose2d):
    """``conv_transpose2d(x)`` with a kernel of 2x2 pixels and stride 2: each pixel becomes four.

    The parameters and keys are those of ``torch.nn.ConvTranspose2d(in_channels, out_channels, 2, 2)``. On CPUs, in
    float32 and float64, it runs as :func:`fastseg.ops.up_conv` where that is faster.

    ``forward`` takes x (N, in_channels, H, W); returns (N, out_channels, 2 H, 2 W).
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self._upsampled(x)


class Upsample3d(_Upsample, nn.ConvTranspose3d):
    """:class:`Upsample2d` for volumes, (N, C, D, H, W): each voxel becomes eight."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self._upsampled(x)


class UpsampleConcat2d(_Upsample, nn.ConvTranspose2d):
    """``torch.cat((skip, conv_transpose2d(x)), 1)``: :class:`Upsample2d`, then concatenation.

    ``forward`` takes x (N, in_channels, H, W) and skip (N, C, 2 H, 2 W); returns (N, C + out_channels, 2 H, 2 W).
    """

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        name = type(self).__name__
        check_image(name, "x", x, 4)
        n, _, *size = x.shape
        height, width = (2 * length for length in size)
        if skip.ndim != 4 or skip.shape[0] != n or skip.shape[2:] != (height, width):
            raise ValueError(f"{name}: skip has shape {tuple(skip.shape)}, expected ({n}, C, {height}, {width})")
        return torch.cat((skip, self._upsampled(x)), 1)
