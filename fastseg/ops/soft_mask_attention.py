"""Soft-mask attention: features scaled by one plus the sigmoid of a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import ELEMENT, output_like
from fastseg.ops import checks
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.pointwise import check_parameters, pointwise_conv
from fastseg.ops.registry import register

_NAME = "soft_mask_attention"
_CONV = "soft_mask_attention_conv"


def soft_mask_attention(trunk: Tensor, mask_logits: Tensor) -> Tensor:
    r"""Residual attention by a soft mask, in one pass over memory.

    .. math:: y = (1 + \sigma(S)) \cdot T

    as in residual attention networks (Wang et al. 2017, arXiv:1704.06904) and the attention blocks of 3D-DA-UNet.

    Args:
        trunk: T, (N, C, *spatial) with one or more spatial axes; float32, float64, bfloat16 or float16, any strides
            (contiguous and channels-last are read as they lie).
        mask_logits: S, of trunk's shape, or (N, 1, *spatial): one mask for all channels. Cast to trunk's dtype.

    Returns:
        Tensor of trunk's shape, dtype and memory format. Computed in float32, in float64 for float64.

    Raises:
        ValueError: wrong rank, shape or device.
        TypeError: an integer or complex tensor.

    For backward it keeps trunk and mask_logits and computes the sigmoid again. Not twice differentiable: use
    ``fastseg.backend("reference")`` for that.
    """
    _check(trunk, mask_logits)
    mask_logits = mask_logits.to(trunk.dtype)
    if select.runs_reference(_NAME, trunk):
        return reference.soft_mask_attention(trunk, mask_logits)
    if torch.is_grad_enabled() and (trunk.requires_grad or mask_logits.requires_grad):
        y: Tensor = _SoftMaskAttention.apply(trunk, mask_logits)
        return y
    return _forward_op(trunk, mask_logits)


def soft_mask_attention_conv(trunk: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """:func:`soft_mask_attention` with the mask ``pointwise_conv(features, weight, bias)``.

    Without gradients, one kernel does both for channels-last tensors on the CPU, and the mask is neither written nor
    read. Elsewhere that would gain nothing, and two kernels run: a backward pass would have to compute the mask again.

    Args:
        trunk: T, (N, C, H, W) or (N, C, D, H, W); float32, float64, bfloat16 or float16.
        features: (N, K, *spatial) of trunk's size and dtype.
        weight: (C, K, 1, 1[, 1]) or (1, K, 1, 1[, 1]) of trunk's dtype.
        bias: (C,) or (1,) of trunk's dtype, or None.

    Returns:
        Tensor of trunk's shape, dtype and memory format.

    Raises:
        ValueError: wrong rank, shape or device.
        TypeError: an integer or complex tensor, or dtypes that differ. Under autocast features, weight and bias are
            cast to trunk's dtype.

    For backward it keeps what its two parts keep. Not twice differentiable.
    """
    if trunk.ndim not in (4, 5):
        raise ValueError(f"{_CONV}: trunk has shape {tuple(trunk.shape)}, expected rank 4 or 5: (N, C, *spatial)")
    checks.check_image(_CONV, "trunk", trunk)
    if features.ndim != trunk.ndim or (features.shape[0], *features.shape[2:]) != (trunk.shape[0], *trunk.shape[2:]):
        expected = ", ".join(map(str, (trunk.shape[0], "K", *trunk.shape[2:])))
        raise ValueError(f"{_CONV}: features has shape {tuple(features.shape)}, expected ({expected})")
    checks.check_device(_CONV, "features", features, trunk, "trunk")
    if torch.is_autocast_enabled(trunk.device.type):
        features, weight = features.to(trunk.dtype), weight.to(trunk.dtype)
        bias = None if bias is None else bias.to(trunk.dtype)
    if features.dtype != trunk.dtype:
        raise TypeError(f"{_CONV}: features is {features.dtype}, expected trunk's dtype {trunk.dtype}")
    check_parameters(features, features.shape[1], weight, bias, _CONV)
    if weight.shape[0] not in (1, trunk.shape[1]):
        raise ValueError(f"{_CONV}: weight has {weight.shape[0]} filters, expected trunk's {trunk.shape[1]} or 1")
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (trunk, features, weight, bias))
    if learns or trunk.numel() == 0 or weight.numel() == 0 or select.runs_reference(_CONV, trunk):
        return soft_mask_attention(trunk, pointwise_conv(features, weight, bias))
    return _conv_op(trunk, features, weight, bias)


def _check(trunk: Tensor, mask: Tensor) -> None:
    if trunk.ndim < 3:
        raise ValueError(f"{_NAME}: trunk has shape {tuple(trunk.shape)}, expected rank 3 or more: (N, C, *spatial)")
    for name, t in (("trunk", trunk), ("mask_logits", mask)):
        if t.dtype not in ELEMENT:
            raise TypeError(f"{_NAME}: {name} is {t.dtype}, expected float32, float64, bfloat16 or float16")
    one = (trunk.shape[0], 1, *trunk.shape[2:])
    if mask.shape != trunk.shape and mask.shape != one:
        raise ValueError(
            f"{_NAME}: mask_logits has shape {tuple(mask.shape)}, expected trunk's shape {tuple(trunk.shape)} or {one}"
        )
    checks.check_device(_NAME, "mask_logits", mask, trunk, "trunk")


class _SoftMaskAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, trunk: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(trunk, mask)
        return _forward_op(trunk, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        wants_trunk, wants_mask = ctx.needs_input_grad
        dtrunk, dmask = _backward_op(grad, *ctx.saved_tensors, wants_trunk, wants_mask)
        return dtrunk if wants_trunk else None, dmask if wants_mask else None


def _forward(trunk: Tensor, mask: Tensor) -> Tensor:
    if trunk.numel() == 0:
        return _forward_fake(trunk, mask)
    return select.kernel(_NAME, trunk).soft_mask_attention_forward(trunk, mask)


def _forward_fake(trunk: Tensor, mask: Tensor) -> Tensor:
    return output_like(trunk)


def _backward(grad: Tensor, trunk: Tensor, mask: Tensor, wants_trunk: bool, wants_mask: bool) -> tuple[Tensor, Tensor]:
    if trunk.numel() == 0:
        dtrunk, dmask = _backward_fake(grad, trunk, mask, wants_trunk, wants_mask)
        return dtrunk, dmask.zero_()  # of no channels: a mask of one channel is not empty
    launch = select.kernel(_NAME, trunk).soft_mask_attention_backward
    return launch(grad, trunk, mask, wants_trunk, wants_mask)


def _backward_fake(
    grad: Tensor, trunk: Tensor, mask: Tensor, wants_trunk: bool, wants_mask: bool
) -> tuple[Tensor, Tensor]:
    like = output_like(trunk) if mask.shape == trunk.shape else trunk.new_empty(mask.shape)
    return (
        output_like(trunk) if wants_trunk else trunk.new_empty((0,)),
        like if wants_mask else trunk.new_empty((0,)),
    )


_forward_op = register("soft_mask_attention(Tensor trunk, Tensor mask_logits) -> Tensor", _forward, _forward_fake)
# What is not wanted is empty.
_backward_op = register(
    "soft_mask_attention_backward(Tensor grad, Tensor trunk, Tensor mask_logits, bool wants_trunk, bool wants_mask) "
    "-> (Tensor dtrunk, Tensor dmask)",
    _backward,
    _backward_fake,
)


def _conv(trunk: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return select.kernel(_CONV, trunk).soft_mask_attention_conv_forward(trunk, features, weight, bias)


def _conv_fake(trunk: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return output_like(trunk)


_conv_op = register(
    "soft_mask_attention_conv(Tensor trunk, Tensor features, Tensor weight, Tensor? bias) -> Tensor", _conv, _conv_fake
)
