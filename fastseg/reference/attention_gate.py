"""The attention_gate family in plain PyTorch: the definition, exact in float64, on any device."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_CONV: dict[int, Callable[..., Tensor]] = {4: F.conv2d, 5: F.conv3d}


def attention_gate(
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> Tensor:
    """x * sigmoid(psi(relu(Wx x + Wg g + b))), as :func:`fastseg.ops.attention_gate` defines it."""
    compute = torch.promote_types(x.dtype, torch.float32)
    conv = _CONV[x.ndim]
    bias, psi_bias = (None if b is None else b.to(compute) for b in (bias, psi_bias))
    features = conv(gating.to(compute), gating_weight.to(compute))
    if gating.shape[2:] != x.shape[2:]:
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        features = F.interpolate(features, x.shape[2:], mode=mode, align_corners=False)
    features = F.relu(conv(x.to(compute), x_weight.to(compute), bias) + features)
    logits = conv(features, psi_weight.to(compute), psi_bias)
    return (x.to(compute) * torch.sigmoid(logits)).to(x.dtype)
