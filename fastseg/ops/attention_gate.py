"""Additive attention gates: features scaled by an attention that a gating signal and they themselves decide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import ELEMENT, output_like
from fastseg.ops import checks
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.registry import register

_NAME = "attention_gate"


def attention_gate(
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> Tensor:
    r"""The additive attention gate of Attention U-Net, without storing its features.

    .. math:: y = x \cdot \sigma(\psi \cdot relu(W_x x + W_g g + b) + b_\psi)

    with one attention for all channels of a pixel (Oktay et al. 2018, arXiv:1804.03999). Where g lies on another grid
    than x, :math:`W_g g` is interpolated linearly to x's (``align_corners=False``); interpolating g itself gives the
    same.

    Args:
        x: (N, C, H, W) or (N, C, D, H, W); float32, float64, bfloat16 or float16, any strides (contiguous and
            channels-last are read as they lie).
        gating: g, (N, G, *spatial) of x's rank, of any spatial size; usually coarser. Cast to x's dtype.
        x_weight: (F, C, 1, 1[, 1]). Parameters have any floating dtype: 16-bit x with float32 ones is the usual mix.
        gating_weight: (F, G, 1, 1[, 1]).
        bias: (F,), or None for zeros.
        psi_weight: (1, F, 1, 1[, 1]).
        psi_bias: (1,), or None for zero.

    Returns:
        Tensor of x's shape, dtype and memory format. Computed in float32, in float64 for float64.

    Raises:
        ValueError: wrong rank, shape or device.
        TypeError: an integer or complex tensor.

    For backward it keeps its arguments and computes the features again. Not twice differentiable: use
    ``fastseg.backend("reference")`` for that.
    """
    arguments = (x, gating, x_weight, gating_weight, bias, psi_weight, psi_bias)
    _check(*arguments)
    gating = gating.to(x.dtype)
    arguments = (x, gating, x_weight, gating_weight, bias, psi_weight, psi_bias)
    if select.runs_reference(_NAME, x):
        return reference.attention_gate(*arguments)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
        y: Tensor = _AttentionGate.apply(*arguments)
        return y
    return _forward_op(*arguments)


def _check(
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> None:
    if x.ndim not in (4, 5):
        raise ValueError(f"{_NAME}: x has shape {tuple(x.shape)}, expected rank 4 or 5: (N, C, *spatial)")
    checks.check_image(_NAME, "x", x)
    checks.check_image(_NAME, "gating", gating, x.ndim)
    if gating.shape[0] != x.shape[0] or (x.numel() > 0 and gating.numel() == 0):
        raise ValueError(
            f"{_NAME}: gating has shape {tuple(gating.shape)}, expected x's batch of {x.shape[0]} and at least one "
            "channel and pixel"
        )
    features = x_weight.shape[0] if x_weight.ndim > 0 else 0
    for name, weight, (outputs, inputs) in (
        ("x_weight", x_weight, (features, x.shape[1])),
        ("gating_weight", gating_weight, (features, gating.shape[1])),
        ("psi_weight", psi_weight, (1, features)),
    ):
        expected = (outputs, inputs, *[1] * (x.ndim - 2))
        if weight.shape != expected or features == 0:
            shown = ", ".join(map(str, ("F", *expected[1:]) if name == "x_weight" else expected))
            raise ValueError(f"{_NAME}: {name} has shape {tuple(weight.shape)}, expected ({shown})")
        if weight.dtype not in ELEMENT:
            raise TypeError(f"{_NAME}: {name} is {weight.dtype}, expected float32, float64, bfloat16 or float16")
        checks.check_device(_NAME, name, weight, x)
    checks.check_device(_NAME, "gating", gating, x)
    checks.check_vector(_NAME, "bias", bias, features, x, "one element for each of x_weight's filters")
    checks.check_vector(_NAME, "psi_bias", psi_bias, 1, x, "one element")


class _AttentionGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Tensor | None) -> Tensor:
        ctx.save_for_backward(*arguments)
        return _forward_op(*arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _backward_op(grad, *ctx.saved_tensors)
        return tuple(
            gradient.to(t.dtype) if wanted else None
            for gradient, t, wanted in zip(gradients, ctx.saved_tensors, ctx.needs_input_grad, strict=True)
        )


def _forward(
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> Tensor:
    arguments = (x, gating, x_weight, gating_weight, bias, psi_weight, psi_bias)
    if x.numel() == 0:
        return _forward_fake(*arguments)
    return select.kernel(_NAME, x).attention_gate_forward(*arguments)


def _forward_fake(
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> Tensor:
    return output_like(x)


def _backward(
    grad: Tensor,
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> tuple[Tensor, ...]:
    arguments = (grad, x, gating, x_weight, gating_weight, bias, psi_weight, psi_bias)
    if x.numel() == 0:
        return tuple(t.zero_() for t in _backward_fake(*arguments))
    return select.kernel(_NAME, x).attention_gate_backward(*arguments)


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> tuple[Tensor, ...]:
    compute = torch.promote_types(x.dtype, torch.float32)
    shapes = (x_weight.shape, gating_weight.shape, x_weight.shape[:1], psi_weight.shape, (1,))
    return (output_like(x), output_like(gating), *(x.new_empty(shape, dtype=compute) for shape in shapes))


_ARGUMENTS = (
    "Tensor x, Tensor gating, Tensor x_weight, Tensor gating_weight, Tensor? bias, Tensor psi_weight, Tensor? psi_bias"
)
_forward_op = register(f"attention_gate({_ARGUMENTS}) -> Tensor", _forward, _forward_fake)
# Gradients of parameters are dense, in the dtype that kernels compute in.
_backward_op = register(
    f"attention_gate_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor dx, Tensor dgating, Tensor dx_weight, "
    "Tensor dgating_weight, Tensor dbias, Tensor dpsi_weight, Tensor dpsi_bias)",
    _backward,
    _backward_fake,
)
