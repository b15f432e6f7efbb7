"""Soft-mask attention: features scaled by one plus the sigmoid of a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import ELEMENT, output_like
from fastseg.ops import checks
from fastseg.ops.registry import register

_NAME = "soft_mask_attention"


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
