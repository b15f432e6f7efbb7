"""The additive attention gate of Attention U-Net as a layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastseg.ops.attention_gate import attention_gate

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}


class AttentionGate(nn.Module):
    """``x * sigmoid(psi(relu(W_x(x) + W_g(gating))))`` (Oktay et al. 2018, arXiv:1804.03999).

    Args:
        spatial_dims: 2 or 3.
        channels: of x.
        gating_channels: of the gating signal.
        features: between the two and psi, channels // 2 by default.
        bias: of W_g and psi. W_x has none: the two would be one.

    ``forward(x, gating)`` takes (N, channels, *spatial) and (N, gating_channels, *spatial); a gating signal on another
    grid is interpolated linearly. The three 1x1 convolutions ``W_x``, ``W_g`` and ``psi`` hold the parameters: the
    layer runs as one op, which hooks on them do not see.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        gating_channels: int,
        features: int | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in _CONV:
            raise ValueError(f"AttentionGate: spatial_dims is {spatial_dims}, expected 2 or 3")
        features = max(channels // 2, 1) if features is None else features
        conv = _CONV[spatial_dims]
        self.spatial_dims = spatial_dims
        self.W_x = conv(channels, features, 1, bias=False, device=device, dtype=dtype)
        self.W_g = conv(gating_channels, features, 1, bias=bias, device=device, dtype=dtype)
        self.psi = conv(features, 1, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor, gating: Tensor) -> Tensor:
        return attention_gate(
            x, gating, self.W_x.weight, self.W_g.weight, self.W_g.bias, self.psi.weight, self.psi.bias
        )
