"""Norm and activation of convolutions side by side: once over the concatenated output, or inside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.ops import batch_norm_act, instance_norm_act
from fastseg.ops.norm import Activation

_BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d)


def is_affine_map(norm: nn.Module) -> bool:
    """Whether ``norm`` is a batch norm that takes its running statistics: it can then go into the weights before it."""
    return type(norm) in _BATCH_NORMS and not norm.training and norm.running_mean is not None


def fold_pays(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the weights of convolutions of x, with an output of its size, are less than what these write.

    Elsewhere the norm is less work after them: 1024 channels of 2x8x8 pixels are 0.5 MB, their 3x3 weights 19 MB.
    """
    pixels = x.shape[0] * x.shape[2:].numel()
    return all(weight.shape[1:].numel() < pixels for weight in weights)


def folded(norm: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weight and bias of a convolution that an affine batch norm follows."""
    scale = torch.rsqrt(norm.running_var.to(_wide(norm.running_var)) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = (norm.running_mean if bias is None else norm.running_mean - bias) * -scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return (weight * scale.view(-1, *[1] * (weight.ndim - 1))).to(weight.dtype), shift.to(weight.dtype)


def norm_act(y: Tensor, norms: Sequence[nn.Module | None], activation: Activation, negative_slope: float) -> Tensor:
    """act(norm(y)), where ``norms`` stand for equal parts of y's channels; y may be overwritten."""
    if all(norm is None for norm in norms):
        return activate(y, activation, negative_slope)
    for together in (_instance_norm_act, _batch_norm_act):
        z = together(y, norms, activation, negative_slope)
        if z is not None:
            return z
    # Norms that cannot run as one.
    parts = y.chunk(len(norms), 1)
    z = torch.cat([part if norm is None else norm(part) for norm, part in zip(norms, parts, strict=True)], 1)
    return activate(z, activation, negative_slope)


def activate(y: Tensor, activation: Activation, negative_slope: float) -> Tensor:
    """In place: y is the output of a convolution or a norm, which do not need it for backward."""
    if activation == "relu":
        return F.relu_(y)
    return F.leaky_relu_(y, negative_slope) if activation == "leaky_relu" else y


def _instance_norm_act(y: Tensor, norms: Sequence[Any], activation: Activation, negative_slope: float) -> Tensor | None:
    if not all(type(norm) in _INSTANCE_NORMS and norm.running_mean is None for norm in norms):
        return None
    weight, bias = _joined(norms, "weight"), _joined(norms, "bias")
    if not _equal(norms, "eps") or weight is _MIXED or bias is _MIXED:
        return None
    return instance_norm_act(y, weight, bias, activation=activation, negative_slope=negative_slope, eps=norms[0].eps)


def _batch_norm_act(y: Tensor, norms: Sequence[Any], activation: Activation, negative_slope: float) -> Tensor | None:
    """One batch norm over all channels with the parameters and buffers of ``norms``, which it updates in training."""
    if not all(type(norm) in _BATCH_NORMS for norm in norms):
        return None
    if not all(_equal(norms, name) for name in ("eps", "momentum", "training", "track_running_stats")):
        return None
    first = norms[0]
    if first.training and first.momentum is None:
        return None
    weight, bias = _joined(norms, "weight"), _joined(norms, "bias")
    mean, variance = _joined(norms, "running_mean"), _joined(norms, "running_var")
    if any(joined is _MIXED for joined in (weight, bias, mean, variance)):
        return None
    updates = first.training and mean is not None
    if updates:
        for norm in norms:
            norm.num_batches_tracked.add_(1)
    z = batch_norm_act(
        y,
        weight,
        bias,
        mean,
        variance,
        activation=activation,
        negative_slope=negative_slope,
        training=first.training or mean is None,
        momentum=first.momentum if first.training else 0.0,
        eps=first.eps,
    )
    if updates:
        count = mean.numel() // len(norms)
        for norm, part_mean, part_variance in zip(norms, mean.split(count), variance.split(count), strict=True):
            norm.running_mean.copy_(part_mean)
            norm.running_var.copy_(part_variance)
    return z


_MIXED: Any = object()


def _joined(norms: Sequence[Any], name: str) -> Any:
    """The parameters or buffers one after the other; None where no norm has one, _MIXED where some have."""
    tensors = [getattr(norm, name) for norm in norms]
    if all(t is None for t in tensors):
        return None
    return _MIXED if any(t is None for t in tensors) else torch.cat(tensors)


def _equal(norms: Sequence[Any], name: str) -> bool:
    return len({getattr(norm, name) for norm in norms}) == 1


def _wide(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)
