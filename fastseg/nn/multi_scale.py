"""Depthwise-separable convolutions of several kernel sizes over one image, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastseg.nn.context import run_branches
from fastseg.nn.depthwise import DepthwiseSeparableConv2d, DepthwiseSeparableConv3d


class _MultiScaleConv(nn.ModuleList):
    _separable: type[nn.Module]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        name = type(self).__name__
        count = len(kernel_sizes)
        if count == 0 or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ValueError(f"{name}: kernel_sizes is {tuple(kernel_sizes)}, expected odd numbers, one at least")
        if out_channels < count:
            raise ValueError(
                f"{name}: out_channels is {out_channels}, expected {count} or more: one for each kernel size"
            )
        # As equal as can be, the first ones one larger.
        outputs = [out_channels // count + (i < out_channels % count) for i in range(count)]
        super().__init__(
            self._separable(in_channels, part, size, padding=size // 2, bias=bias, device=device, dtype=dtype)
            for part, size in zip(outputs, kernel_sizes, strict=True)
        )

    def forward(self, input: Tensor) -> Tensor:
        return run_branches(input, list(self), [None] * len(self), "none")


class MultiScaleConv2d(_MultiScaleConv):
    """Depthwise-separable convolutions with a kernel size each, their outputs concatenated.

    Args:
        in_channels: of the input, (N, C, H, W).
        out_channels: of the output, shared out over the branches as equally as can be, the first ones one larger.
        kernel_sizes: of the depthwise convolutions, odd; sizes are kept by zeros around the image.
        bias: of the 1x1 convolutions.

    Keys: ``B.0.weight`` (depthwise), ``B.1.weight`` and ``B.1.bias`` (1x1) of branch B.

    Raises:
        ValueError: an even kernel size, none, or fewer output channels than branches.
    """

    _separable = DepthwiseSeparableConv2d


class MultiScaleConv3d(_MultiScaleConv):
    """:class:`MultiScaleConv2d` for volumes, (N, C, D, H, W)."""

    _separable = DepthwiseSeparableConv3d
