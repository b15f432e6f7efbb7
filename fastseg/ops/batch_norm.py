"""Batch normalisation fused with what follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import layout_of, new_output
from fastseg.ops import checks
from fastseg.ops.norm import ACTIVATIONS, Activation, norm_gradients, save_norm
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.registry import register

_NAME = "batch_norm_act"


def batch_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: Activation = "relu",
    negative_slope: float = 0.01,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r"""Batch normalisation, residual addition and activation in one op.

    .. math:: y = act((x - mean) / \sqrt{var + eps} \cdot weight + bias + residual)

    With ``training`` the mean and the biased variance are those of each channel over the batch and the spatial axes
    (Ioffe and Szegedy 2015, arXiv:1502.03167), and the running statistics move towards the mean and the unbiased
    variance in place: ``running = (1 - momentum) * running + momentum * new``. Without it they are the running
    statistics. As ``relu(torch.nn.functional.batch_norm(x, ...) + residual)``.

    Args:
        x: (N, C, H, W) or (N, C, D, H, W), float32, float64, bfloat16 or float16, any strides (contiguous and
            channels-last are read as they lie). In training more than one element a channel.
        weight: (C,), or None for ones. Any floating dtype: 16-bit x with float32 weight is the usual mix.
        bias: (C,), or None for zeros.
        running_mean, running_var: (C,), both or none; needed without ``training``. They get no gradient.
        residual: x's shape, added before the activation; cast to x's dtype.
        activation: ``"relu"``, ``"leaky_relu"`` or ``"none"``.
        negative_slope: of leaky_relu, >= 0.
        training: whether the statistics are the batch's own.
        momentum: >= 0, the share of the batch in the running statistics.
        eps: >= 0, added to the variance.

    Returns:
        Tensor of x's shape and dtype, dense in x's memory format. Statistics are float32 (float64 for float64 x). An
        empty batch gives an empty result and leaves the running statistics as they are.

    Raises:
        ValueError: wrong rank, shape, device, activation, negative number, or missing running statistics; in training
            one element a channel, which has no variance.
        TypeError: an integer or complex tensor.

    For backward it keeps x and the statistics; with a residual and an activation also y, whose sign replaces the sum.
    Not twice differentiable: use ``fastseg.backend("reference")`` for that. Statistics are those of one process: there
    is no synchronised version. On GPUs torch's own ops run (cuDNN).
    """
    if x.ndim not in (4, 5):
        raise ValueError(
            f"{_NAME}: x has shape {tuple(x.shape)}, expected rank 4 or 5: (N, C, H, W) or (N, C, D, H, W)"
        )
    checks.check_image(_NAME, "x", x)
    checks.check_channel_vector(_NAME, "weight", weight, x)
    checks.check_channel_vector(_NAME, "bias", bias, x)
    checks.check_channel_vector(_NAME, "running_mean", running_mean, x)
    checks.check_channel_vector(_NAME, "running_var", running_var, x)
    checks.check_same_shape(_NAME, "residual", residual, x)
    checks.check_choice(_NAME, "activation", activation, ACTIVATIONS)
    checks.check_not_negative(_NAME, "negative_slope", negative_slope)
    checks.check_not_negative(_NAME, "momentum", momentum)
    checks.check_not_negative(_NAME, "eps", eps)
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(
            f"{_NAME}: {missing} is None, expected running_mean and running_var both"
            + (", or neither" if training else " where training is False")
        )
    if training and x.shape[0] * x.shape[2:].numel() == 1:
        raise ValueError(
            f"{_NAME}: x has shape {tuple(x.shape)}, expected more than one element a channel: one has no variance"
        )
    if residual is not None and residual.dtype != x.dtype:
        residual = residual.to(x.dtype)
    if select.runs_reference(_NAME, x) and x.numel() > 0:
        return reference.batch_norm_act(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            residual=residual,
            activation=activation,
            negative_slope=negative_slope,
            training=training,
            momentum=momentum,
            eps=eps,
        )
    differentiable = torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    )
    y: Tensor
    if not training:
        assert running_mean is not None and running_var is not None
        compute = torch.promote_types(x.dtype, torch.float32)
        with torch.no_grad():
            mean, rstd = running_mean.to(compute), (running_var.double() + eps).rsqrt().to(compute)
        if differentiable:
            y = _BatchNormActGiven.apply(x, weight, bias, residual, mean, rstd, activation, negative_slope)
            return y
        return _apply_op(x, mean, rstd, weight, bias, residual, activation, negative_slope)
    if differentiable:
        y, mean, variance = _BatchNormAct.apply(x, weight, bias, residual, activation, negative_slope, eps)
    else:
        y, mean, _, variance = _forward_op(x, weight, bias, residual, activation, negative_slope, eps)
    if running_mean is not None and running_var is not None and x.numel() > 0:
        with torch.no_grad():
            for running, batch in ((running_mean, mean), (running_var, variance)):
                running.lerp_(batch if batch.dtype == running.dtype else batch.to(running.dtype), momentum)
    return y


def runs_fused(x: Tensor, least: int) -> bool:
    """Whether a layer that may also call torch's own ops is to call the kernel: there is one for x, and x has ``least``
    elements. A forced backend is always asked. Not in torch.export, which would keep the limit as one of its sizes."""
    if select.forced() is not None:
        return True
    return not torch.compiler.is_exporting() and not select.runs_reference(_NAME, x) and x.numel() >= least


class _BatchNormAct(torch.autograd.Function):
    """Statistics of the batch."""

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rstd, variance = _forward_op(x, weight, bias, residual, activation, negative_slope, eps)
        save_norm(ctx, x, weight, bias, residual, y, mean, rstd, activation, negative_slope)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return (*norm_gradients(ctx, grad, _backward_op, False), None, None, None)


class _BatchNormActGiven(torch.autograd.Function):
    """Statistics that are given and constant."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mean: Tensor,
        rstd: Tensor,
        activation: str,
        negative_slope: float,
    ) -> Tensor:
        y = _apply_op(x, mean, rstd, weight, bias, residual, activation, negative_slope)
        save_norm(ctx, x, weight, bias, residual, y, mean, rstd, activation, negative_slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*norm_gradients(ctx, grad, _backward_op, True), None, None, None, None)


def _output_like(x: Tensor) -> Tensor:
    return new_output(x, x.shape[1], x.shape[2:], layout_of(x) or "rows")


def _statistics(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1:2], dtype=torch.promote_types(x.dtype, torch.float32))


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        return _forward_fake(x, weight, bias, residual, activation, negative_slope, eps)
    launch = select.kernel(_NAME, x).batch_norm_act_forward
    return launch(x, weight, bias, residual, activation, negative_slope, eps)


def _forward_fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _output_like(x), _statistics(x), _statistics(x), _statistics(x)


def _apply(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Tensor:
    if x.numel() == 0:
        return _output_like(x)
    launch = select.kernel(_NAME, x).batch_norm_act_apply
    return launch(x, mean.contiguous(), rstd.contiguous(), weight, bias, residual, activation, negative_slope)


def _apply_fake(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Tensor:
    return _output_like(x)


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
    statistics_fixed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    args = (activation, negative_slope, statistics_fixed)
    if x.numel() == 0:
        dx, dweight, dbias, dresidual = _backward_fake(grad, x, weight, bias, y, mean, rstd, *args)
        return dx, dweight.zero_(), dbias.zero_(), dresidual
    launch = select.kernel(_NAME, x).batch_norm_act_backward
    return launch(grad, x, weight, bias, y, mean.contiguous(), rstd.contiguous(), *args)


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
    statistics_fixed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dresidual = _output_like(x) if y is not None else x.new_empty((0,))
    return _output_like(x), _statistics(x), _statistics(x), dresidual


_forward_op = register(
    "batch_norm_act(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, str activation, float negative_slope, "
    "float eps) -> (Tensor y, Tensor mean, Tensor rstd, Tensor variance)",
    _forward,
    _forward_fake,
)
_apply_op = register(
    "batch_norm_act_apply(Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, Tensor? residual, "
    "str activation, float negative_slope) -> Tensor",
    _apply,
    _apply_fake,
)
# dresidual is empty unless y was given: without an activation it is grad itself.
_backward_op = register(
    "batch_norm_act_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor? y, Tensor mean, Tensor rstd, "
    "str activation, float negative_slope, bool statistics_fixed) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dresidual)",
    _backward,
    _backward_fake,
)
