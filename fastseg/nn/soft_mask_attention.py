"""Soft-mask attention as a layer, with the 1x1 convolution that makes the mask where it is wanted."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from fastseg.nn.depthwise import PointwiseConv2d, PointwiseConv3d, is_unwatched
from fastseg.ops.soft_mask_attention import soft_mask_attention, soft_mask_attention_conv


class SoftMaskAttention(nn.Module):
    """``(1 + sigmoid(S)) * T``.

    Args:
        channels: of the features from which a 1x1 convolution (``mask``) makes S. None: the layer has no parameters
            and takes S itself.
        mask_channels: of S, the trunk's or 1; by default ``channels``.
        spatial_dims: of the features, 2 or 3.
        bias: of the convolution.

    ``forward(trunk, features)`` takes T of (N, C, *spatial) and the features, or S, of the same size.
    """

    _pointwise: ClassVar[dict[int, Any]] = {2: PointwiseConv2d, 3: PointwiseConv3d}

    def __init__(
        self,
        channels: int | None = None,
        mask_channels: int | None = None,
        *,
        spatial_dims: int = 3,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in self._pointwise:
            raise ValueError(f"SoftMaskAttention: spatial_dims is {spatial_dims}, expected 2 or 3")
        if channels is None and mask_channels is not None:
            raise ValueError(
                f"SoftMaskAttention: mask_channels is {mask_channels} and channels is None, expected channels too: "
                "without them there is no convolution"
            )
        self.spatial_dims = spatial_dims
        self.mask: Any = None
        if channels is not None:
            outputs = channels if mask_channels is None else mask_channels
            self.mask = self._pointwise[spatial_dims](channels, outputs, bias, device=device, dtype=dtype)

    def forward(self, trunk: Tensor, features: Tensor) -> Tensor:
        if self.mask is None:
            return soft_mask_attention(trunk, features)
        if not is_unwatched(self.mask) or trunk.ndim != self.spatial_dims + 2:
            return soft_mask_attention(trunk, self.mask(features))
        return soft_mask_attention_conv(trunk, features, self.mask.weight, self.mask.bias)
