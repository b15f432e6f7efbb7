"""Batch norm and what follows it in plain PyTorch: the definition, exact in float64, and what GPUs run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: str = "relu",
    negative_slope: float = 0.01,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """act(batch_norm(x) + residual), as :func:`fastseg.ops.batch_norm_act` defines it."""
    compute = torch.promote_types(x.dtype, torch.float32)
    # torch takes them in x's dtype, or with a 16-bit x in float32.
    weight, bias = (None if t is None else t.to(compute) for t in (weight, bias))
    running = [None if t is None else t.to(compute) for t in (running_mean, running_var)]
    z = F.batch_norm(x, running[0], running[1], weight, bias, training, momentum, eps)
    if training:
        for buffer, updated in zip((running_mean, running_var), running, strict=True):
            if buffer is not None and updated is not None and updated is not buffer:
                buffer.copy_(updated)
    if residual is not None:
        z = z + residual
    if activation == "relu":
        return F.relu(z)
    return F.leaky_relu(z, negative_slope) if activation == "leaky_relu" else z
