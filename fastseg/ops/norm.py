"""Normalisation fused with what follows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import ACTIVATION, output_like
from fastseg.ops import checks
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.registry import register

Activation = Literal["leaky_relu", "relu", "none"]
ACTIVATIONS = tuple(ACTIVATION)

_NAME = "instance_norm_act"


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: Activation = "leaky_relu",
    negative_slope: float = 0.01,
    eps: float = 1e-5,
) -> Tensor:
    r"""Instance normalisation, residual addition and activation in one pass over memory.

    .. math:: y = act((x - mean) / \sqrt{var + eps} \cdot weight + bias + residual)

    with the mean and the biased variance of each sample's channel over its spatial axes (Ulyanov et al. 2016,
    arXiv:1607.08022), as in ``leaky_relu(instance_norm(x) + residual)``.

    Args:
        x: (N, C, *spatial) with one to three spatial axes, of more than one element in all; float32, float64, bfloat16
            or float16, any strides (contiguous and channels-last are read as they lie).
        weight: (C,), or None for ones. Any floating dtype: 16-bit x with float32 weight is the usual mix.
        bias: (C,), or None for zeros.
        residual: x's shape, added before the activation; cast to x's dtype, as an in-place addition would.
        activation: ``"leaky_relu"``, ``"relu"`` or ``"none"``.
        negative_slope: of leaky_relu, >= 0.
        eps: >= 0, added to the variance.

    Returns:
        Tensor of x's shape, dtype and memory format. Statistics are float32 (float64 for float64 x). NaN in a channel
        makes that channel NaN.

    Raises:
        ValueError: wrong rank, shape, device, activation, or negative ``eps`` or ``negative_slope``; one spatial
            element, which has no variance.
        TypeError: an integer or complex tensor.

    For backward it keeps x and the statistics; with a residual and an activation also y, whose sign replaces the sum.
    Not twice differentiable: use ``fastseg.backend("reference")`` for that.
    """
    checks.check_image(_NAME, "x", x)
    checks.check_channel_vector(_NAME, "weight", weight, x)
    checks.check_channel_vector(_NAME, "bias", bias, x)
    checks.check_same_shape(_NAME, "residual", residual, x)
    checks.check_choice(_NAME, "activation", activation, ACTIVATIONS)
    checks.check_not_negative(_NAME, "negative_slope", negative_slope)
    checks.check_not_negative(_NAME, "eps", eps)
    if x.shape[2:].numel() <= 1:
        raise ValueError(
            f"{_NAME}: x has shape {tuple(x.shape)}, expected more than one spatial element: one has no variance"
        )
    if residual is not None and residual.dtype != x.dtype:
        residual = residual.to(x.dtype)
    if select.runs_reference(_NAME, x):
        return reference.instance_norm_act(
            x, weight, bias, residual=residual, activation=activation, negative_slope=negative_slope, eps=eps
        )
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        y: Tensor = _InstanceNormAct.apply(x, weight, bias, residual, activation, negative_slope, eps)
        return y
    return _forward_op(x, weight, bias, residual, activation, negative_slope, eps)[0]


class _InstanceNormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str,
        negative_slope: float,
        eps: float,
    ) -> Tensor:
        y, mean, rstd = _forward_op(x, weight, bias, residual, activation, negative_slope, eps)
        save_norm(ctx, x, weight, bias, residual, y, mean, rstd, activation, negative_slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*norm_gradients(ctx, grad, norm_backward_op), None, None, None)


def save_norm(
    ctx: Any,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    activation: str,
    negative_slope: float,
) -> None:
    """Keep what the backward of a norm needs; :func:`norm_gradients` reads it."""
    # Without a residual the activation's branch follows from x; with one, only from the sum, whose sign y has.
    # y is alive anyway: the next convolution keeps its input.
    decider = y if residual is not None and activation != "none" else None
    ctx.save_for_backward(x, weight, bias, decider, mean, rstd)
    ctx.activation, ctx.negative_slope = activation, negative_slope


def norm_gradients(
    ctx: Any, grad: Tensor, backward_op: Callable[..., tuple[Tensor, ...]], *options: bool
) -> tuple[Tensor | None, ...]:
    """Those of x, weight, bias and residual, of a forward that began with these four."""
    x, weight, bias, decider, mean, rstd = ctx.saved_tensors
    _, wants_weight, wants_bias, wants_residual, *_ = ctx.needs_input_grad
    dx, dweight, dbias, dresidual = backward_op(
        grad, x, weight, bias, decider, mean, rstd, ctx.activation, ctx.negative_slope, *options
    )
    if wants_residual and decider is None:
        dresidual = grad
    return (
        dx,
        _in_dtype(dweight, weight) if wants_weight else None,
        _in_dtype(dbias, bias) if wants_bias else None,
        dresidual if wants_residual else None,
    )


def _in_dtype(gradient: Tensor, parameter: Tensor) -> Tensor:
    return gradient if gradient.dtype == parameter.dtype else gradient.to(parameter.dtype)


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        return _forward_fake(x, weight, bias, residual, activation, negative_slope, eps)
    launch = select.kernel(_NAME, x).instance_norm_act_forward
    return launch(x, weight, bias, residual, activation, negative_slope, eps)


def _forward_fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, rstd = (x.new_empty(x.shape[:2], dtype=dtype) for _ in range(2))
    return output_like(x), mean, rstd


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    activation: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        dx, dweight, dbias, dresidual = _backward_fake(grad, x, weight, bias, y, mean, rstd, activation, negative_slope)
        return dx, dweight.zero_(), dbias.zero_(), dresidual
    launch = select.kernel(_NAME, x).instance_norm_act_backward
    return launch(grad, x, weight, bias, y, mean, rstd, activation, negative_slope)


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    activation: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dweight, dbias = (mean.new_empty((x.shape[1],)) for _ in range(2))
    dresidual = output_like(x) if y is not None else x.new_empty((0,))
    return output_like(x), dweight, dbias, dresidual


def _apply(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Tensor:
    if x.numel() == 0:
        return output_like(x)
    return select.kernel(_NAME, x).instance_norm_act_apply(x, mean, rstd, weight, bias, activation, negative_slope)


def _apply_fake(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Tensor:
    return output_like(x)


_forward_op = register(
    "instance_norm_act(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, str activation, "
    "float negative_slope, float eps) -> (Tensor y, Tensor mean, Tensor rstd)",
    _forward,
    _forward_fake,
)
# dresidual is empty unless y was given: without an activation it is grad itself.
norm_backward_op = register(
    "instance_norm_act_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor? y, Tensor mean, "
    "Tensor rstd, str activation, float negative_slope) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)",
    _backward,
    _backward_fake,
)
#: The same with statistics that another kernel gathered.
apply_op = register(
    "instance_norm_act_apply(Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, str activation, "
    "float negative_slope) -> Tensor",
    _apply,
    _apply_fake,
)
