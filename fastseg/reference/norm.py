"""The norm family in plain PyTorch: the definition, exact in float64, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
    eps: float = 1e-5,
) -> Tensor:
    """act(instance_norm(x) + residual), as :func:`fastseg.ops.instance_norm_act` defines it."""
    compute = torch.promote_types(x.dtype, torch.float32)
    axes = tuple(range(2, x.ndim))
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    xc = x.to(compute)
    variance, mean = torch.var_mean(xc, axes, correction=0, keepdim=True)
    z = (xc - mean) * torch.rsqrt(variance + eps)
    if weight is not None:
        z = z * weight.to(compute).view(per_channel)
    if bias is not None:
        z = z + bias.to(compute).view(per_channel)
    if residual is not None:
        z = z + residual.to(compute)
    if activation == "relu":
        z = F.relu(z)
    elif activation == "leaky_relu":
        z = F.leaky_relu(z, negative_slope)
    return z.to(x.dtype)
