"""The small parts of channel and spatial attention in torch's ops: what GPU kernels leave to the vendor.

Gradients are written out, for this runs inside registered ops, below autograd.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.backends.cbam_call import Saved, Weights


def present(t: Tensor | None) -> Tensor:
    assert t is not None
    return t


def hidden_layers(weights: Weights, pooled: Tensor) -> Tensor:
    """relu(fc1(pool)) of each pool: (N, pools, H)."""
    return F.relu(F.linear(pooled, present(weights.fc1_weight), weights.fc1_bias))


def channel_gate(weights: Weights, pooled: Tensor) -> Tensor:
    hidden = hidden_layers(weights, pooled)
    return torch.sigmoid(F.linear(hidden, present(weights.fc2_weight), weights.fc2_bias).sum(1))


def channel_gate_backward(
    weights: Weights, saved: Saved, dgate: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the pools, (N, pools, C), and of fc1's and fc2's weight and bias."""
    gate = saved.channel_gate
    hidden = hidden_layers(weights, saved.pooled)
    dlogit = dgate * gate * (1 - gate)
    dhidden = (dlogit @ present(weights.fc2_weight))[:, None] * (hidden > 0)
    return (
        dhidden @ present(weights.fc1_weight),
        torch.einsum("nph,npc->hc", dhidden, saved.pooled),
        dhidden.sum((0, 1)),
        dlogit.T @ hidden.sum(1),
        dlogit.sum(0) * saved.pooled.shape[1],
    )


def ordered(maps: Tensor, max_first: bool) -> Tensor:
    """The two maps in the order of the convolution's weight."""
    return maps.flip(1) if max_first else maps


def spatial_logits(weights: Weights, maps: Tensor, max_first: bool) -> Tensor:
    weight = present(weights.spatial_weight)
    convolution = F.conv2d if maps.ndim == 4 else F.conv3d
    padding = [size // 2 for size in weight.shape[2:]]
    return convolution(ordered(maps, max_first), weight, weights.spatial_bias, padding=padding)[:, 0]


def spatial_logits_backward(
    weights: Weights, maps: Tensor, dlogits: Tensor, max_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the maps, of the convolution's weight and of its bias."""
    weight = present(weights.spatial_weight)
    rank = maps.ndim - 2
    dmaps, dweight, dbias = torch.ops.aten.convolution_backward(
        dlogits[:, None], ordered(maps, max_first), weight, [1], [1] * rank, [size // 2 for size in weight.shape[2:]],
        [1] * rank, False, [0] * rank, 1, [True, True, True],
    )  # fmt: skip
    return ordered(dmaps, max_first), dweight, dbias


def normalized_logits(weights: Weights, logits: Tensor, statistics: Tensor, eps: float) -> Tensor:
    z = (logits - statistics[0].to(logits.dtype)) * torch.rsqrt(statistics[1] + eps).to(logits.dtype)
    if weights.norm_weight is not None:
        z = z * weights.norm_weight
    return z if weights.norm_bias is None else z + weights.norm_bias


def normalized_logits_backward(
    weights: Weights, saved: Saved, grad: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the logits, and of the norm's weight and bias."""
    mean, variance = saved.statistics.to(grad.dtype).unbind()
    rstd = torch.rsqrt(variance + eps)
    xhat = (saved.logits - mean) * rstd
    dbias, dweight = grad.sum().view(1), (grad * xhat).sum().view(1)
    scale = rstd if weights.norm_weight is None else rstd * weights.norm_weight
    return (grad - dbias / grad.numel() - xhat * (dweight / grad.numel())) * scale, dweight, dbias
