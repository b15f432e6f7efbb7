"""Channel and spatial attention in plain PyTorch: the definition, exact in float64, on any device.

Maxima give their gradient to the first index that has them, as ``torch.max(x, dim)`` and max pooling do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    x: Tensor,
    parameters: Sequence[Tensor | None],
    spatial: str,
    max_pool: bool,
    max_first: bool,
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Tensor | None]:
    """y, and with ``normalize`` the mean and the biased variance of what the spatial convolution gave.

    ``parameters`` are those of Weights in backends/cbam_call.py. ``spatial`` is ``"pooled"`` (CBAM), ``"projected"``
    (scSE: the two gates are added) or ``"none"``; without fc1's weight there is no channel gate.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    cast: list[Any] = [None if t is None else t.to(compute) for t in parameters]
    fc1, bias1, fc2, bias2, weight, bias, norm_weight, norm_bias = cast
    xc = x.to(compute)
    ones = (1,) * (x.ndim - 2)
    statistics: Tensor | None = None
    gated, channel_gate = xc, None
    if fc1 is not None:
        pixels = xc.flatten(2)
        pools = [pixels.mean(2), pixels.max(2)[0]] if max_pool else [pixels.mean(2)]
        logits = [F.linear(F.relu(F.linear(pool, fc1, bias1)), fc2, bias2) for pool in pools]
        channel_gate = torch.sigmoid(sum(logits[1:], logits[0])).unflatten(1, (-1, *ones))
        gated = xc * channel_gate
    if spatial == "none":
        return gated.to(x.dtype), statistics
    convolution: Any = F.conv2d if x.ndim == 4 else F.conv3d
    if spatial == "projected":
        gate = torch.sigmoid(convolution(xc, weight, bias))
        return (xc * gate if channel_gate is None else gated + xc * gate).to(x.dtype), statistics
    maps = [gated.mean(1, keepdim=True), gated.max(1, keepdim=True)[0]]
    # The kernel's sizes are odd.
    logit = convolution(torch.cat(maps[::-1] if max_first else maps, 1), weight, bias, padding="same")
    if normalize:
        variance, mean = torch.var_mean(logit, correction=0)
        statistics = torch.stack((mean, variance)).detach().double()
        logit = (logit - mean) * torch.rsqrt(variance + eps)
        if norm_weight is not None:
            logit = logit * norm_weight
        if norm_bias is not None:
            logit = logit + norm_bias
    return (gated * torch.sigmoid(logit)).to(x.dtype), statistics
