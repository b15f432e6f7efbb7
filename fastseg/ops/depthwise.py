"""Depthwise convolutions, and those fused with what follows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops import checks, geometry
from fastseg.ops.depthwise_registered import backward_op, forward_op, separable_op, statistics_op, transpose_op
from fastseg.ops.geometry import Axes, Geometry, Padding
from fastseg.ops.norm import ACTIVATIONS, Activation, apply_op, norm_backward_op
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.pointwise import check_parameters, pointwise_conv


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Axes = 1,
    padding: Padding = 0,
    dilation: Axes = 1,
) -> Tensor:
    r"""Convolution with a filter of its own for every channel, as ``torch.nn.functional.conv2d(groups=C)``.

    .. math:: y_{n,o,p} = bias_o + \sum_k weight_{o,k} \cdot x_{n, o // m, p \cdot stride - padding + k \cdot dilation}

    Args:
        x: (N, C, H, W); float32, float64, bfloat16 or float16, any strides (contiguous and channels-last are read as
            they lie).
        weight: (C * m, 1, kH, kW) of x's dtype, with the channel multiplier m >= 1.
        bias: (C * m,) of x's dtype, or None.
        stride: of the filter, in pixels, one number or one for each axis.
        padding: zeros on both sides of each axis, one number or one for each, ``"same"`` (with stride 1: y has x's
            size; of an odd number the extra zero stands behind) or ``"valid"`` (none).
        dilation: pixels from one tap to the next.

    Returns:
        (N, C * m, H', W') of x's dtype and memory format. 16-bit tensors are added up in float32.

    Raises:
        ValueError: wrong rank, shape or device, filters that are no multiple of the channels, an output without pixels.
        TypeError: an integer or complex tensor, or dtypes that differ. Under autocast all are cast, as torch's are.

    For backward it keeps x and weight. Not twice differentiable: use ``fastseg.backend("reference")`` for that.
    """
    return _depthwise_conv("depthwise_conv2d", 4, x, weight, bias, stride, padding, dilation)


def depthwise_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Axes = 1,
    padding: Padding = 0,
    dilation: Axes = 1,
) -> Tensor:
    """:func:`depthwise_conv2d` for volumes: x (N, C, D, H, W), weight (C * m, 1, kD, kH, kW)."""
    return _depthwise_conv("depthwise_conv3d", 5, x, weight, bias, stride, padding, dilation)


def depthwise_conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Axes = 1,
    padding: Axes = 0,
    output_padding: Axes = 0,
    dilation: Axes = 1,
) -> Tensor:
    """Transposed convolution with a filter for every channel, as ``torch.nn.functional.conv_transpose2d(groups=C)``.

    Args:
        x: (N, C, H, W), as in :func:`depthwise_conv2d`.
        weight: (C, 1, kH, kW) of x's dtype.
        bias: (C,) of x's dtype, or None.
        stride: pixels of y from one pixel of x to the next.
        padding: pixels that are cut off y on both sides of each axis.
        output_padding: pixels that are added behind, less than stride or dilation.
        dilation: pixels from one tap to the next.

    Returns:
        (N, C, H', W') with H' = (H - 1) * stride - 2 * padding + dilation * (kH - 1) + output_padding + 1.

    Raises:
        ValueError, TypeError: as :func:`depthwise_conv2d`.
    """
    return _depthwise_conv_transpose(
        "depthwise_conv_transpose2d", 4, x, weight, bias, stride, padding, output_padding, dilation
    )


def depthwise_conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Axes = 1,
    padding: Axes = 0,
    output_padding: Axes = 0,
    dilation: Axes = 1,
) -> Tensor:
    """:func:`depthwise_conv_transpose2d` for volumes: x (N, C, D, H, W), weight (C, 1, kD, kH, kW)."""
    return _depthwise_conv_transpose(
        "depthwise_conv_transpose3d", 5, x, weight, bias, stride, padding, output_padding, dilation
    )


def depthwise_separable_conv2d(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    *,
    depthwise_bias: Tensor | None = None,
    pointwise_bias: Tensor | None = None,
    stride: Axes = 1,
    padding: Padding = 0,
    dilation: Axes = 1,
) -> Tensor:
    """:func:`depthwise_conv2d` and then a 1x1 convolution (Chollet 2017, arXiv:1610.02357).

    Args:
        x: (N, C, H, W), as in :func:`depthwise_conv2d`.
        depthwise_weight: (C * m, 1, kH, kW).
        pointwise_weight: (O, C * m, 1, 1).
        depthwise_bias: (C * m,), or None.
        pointwise_bias: (O,), or None.
        stride: of the depthwise convolution, as are ``padding`` and ``dilation``.

    Returns:
        (N, O, H', W') of x's dtype and memory format.

    Raises:
        ValueError, TypeError: as :func:`depthwise_conv2d` and :func:`pointwise_conv`.

    Without gradients, channels-last images with few channels take one kernel on the CPU, which does not write what lies
    between the two.
    """
    return _separable_conv(
        "depthwise_conv2d",
        4,
        x,
        depthwise_weight,
        pointwise_weight,
        depthwise_bias,
        pointwise_bias,
        stride,
        padding,
        dilation,
    )


def depthwise_separable_conv3d(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    *,
    depthwise_bias: Tensor | None = None,
    pointwise_bias: Tensor | None = None,
    stride: Axes = 1,
    padding: Padding = 0,
    dilation: Axes = 1,
) -> Tensor:
    """:func:`depthwise_separable_conv2d` for volumes."""
    return _separable_conv(
        "depthwise_conv3d",
        5,
        x,
        depthwise_weight,
        pointwise_weight,
        depthwise_bias,
        pointwise_bias,
        stride,
        padding,
        dilation,
    )


def depthwise_instance_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    stride: Axes = 1,
    padding: Padding = 0,
    dilation: Axes = 1,
    activation: Activation = "none",
    negative_slope: float = 0.01,
    eps: float = 1e-5,
) -> Tensor:
    """act(instance_norm(depthwise_conv(x))): the convolution gathers the norm's statistics, which saves a read.

    Args:
        x: (N, C, *spatial) with two or three spatial axes, and ``weight``, ``bias``, ``stride``, ``padding`` and
            ``dilation`` as in :func:`depthwise_conv2d`.
        norm_weight: (C * m,) of any floating dtype, or None; ``norm_bias`` likewise, and ``activation``,
            ``negative_slope`` and ``eps`` as in :func:`instance_norm_act`.

    Raises:
        ValueError, TypeError: as :func:`depthwise_conv2d` and :func:`instance_norm_act`.

    For backward it keeps x, the convolution's output and its statistics.
    """
    op = "depthwise_instance_norm_act"
    if x.ndim not in (4, 5):
        raise ValueError(f"{op}: x has shape {tuple(x.shape)}, expected rank 4 or 5: (N, C, *spatial)")
    x, weight, bias = _checked(op, x.ndim, x, weight, bias)
    at = geometry.convolution(op, x, weight, stride, padding, dilation)
    for name, vector in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        checks.check_vector(op, name, vector, weight.shape[0], x)
    checks.check_choice(op, "activation", activation, ACTIVATIONS)
    checks.check_not_negative(op, "negative_slope", negative_slope)
    checks.check_not_negative(op, "eps", eps)
    if all(out == 1 for out in at.size):
        raise ValueError(f"{op}: the convolution's output is one pixel, expected more: one has no variance")
    if select.runs_reference(op, x):
        return reference.depthwise_instance_norm_act(
            x, weight, bias, norm_weight, norm_bias, *at, activation, negative_slope, eps
        )
    if _differentiates(x, weight, bias, norm_weight, norm_bias):
        y: Tensor = _DepthwiseInstanceNormAct.apply(
            x, weight, bias, norm_weight, norm_bias, at, activation, negative_slope, eps
        )
        return y
    y, mean, rstd = statistics_op(x, weight, bias, *at, eps)
    return apply_op(y, mean, rstd, norm_weight, norm_bias, activation, negative_slope)


def _depthwise_conv(
    op: str, rank: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Axes, padding: Padding, dilation: Axes
) -> Tensor:
    x, weight, bias = _checked(op, rank, x, weight, bias)
    at = geometry.convolution(op, x, weight, stride, padding, dilation)
    if select.runs_reference(op, x):
        return reference.depthwise_conv(x, weight, bias, *at)
    if _differentiates(x, weight, bias):
        y: Tensor = _DepthwiseConv.apply(x, weight, bias, at)
        return y
    return forward_op(x, weight, bias, *at)


def _separable_conv(
    op: str,
    rank: int,
    x: Tensor,
    weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: Axes,
    padding: Padding,
    dilation: Axes,
) -> Tensor:
    on_cpu = not select.runs_reference(op, x) and select.choose(op, x).backend == "cpu"
    if not on_cpu or _differentiates(x, weight, pointwise_weight, bias, pointwise_bias):
        y = _depthwise_conv(op, rank, x, weight, bias, stride, padding, dilation)
        if on_cpu:
            return pointwise_conv(y, pointwise_weight, pointwise_bias)
        # The 1x1 is torch's there, also where another backend is forced: that is for the depthwise kernel.
        y, pointwise_weight, pointwise_bias = checks.autocast(y, pointwise_weight, pointwise_bias)
        check_parameters(y, y.shape[1], pointwise_weight, pointwise_bias)
        return reference.pointwise_conv(y, pointwise_weight, pointwise_bias)
    x, weight, bias = _checked(op, rank, x, weight, bias)
    at = geometry.convolution(op, x, weight, stride, padding, dilation)
    _, pointwise_weight, pointwise_bias = checks.autocast(x, pointwise_weight, pointwise_bias)
    check_parameters(x, weight.shape[0], pointwise_weight, pointwise_bias)
    if pointwise_weight.numel() == 0:
        return pointwise_conv(forward_op(x, weight, bias, *at), pointwise_weight, pointwise_bias)
    return separable_op(x, weight, pointwise_weight, bias, pointwise_bias, *at)


def _depthwise_conv_transpose(
    op: str,
    rank: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Axes,
    padding: Axes,
    output_padding: Axes,
    dilation: Axes,
) -> Tensor:
    x, weight, bias = _checked(op, rank, x, weight, bias)
    if weight.shape[0] != x.shape[1]:
        raise ValueError(
            f"{op}: weight has {weight.shape[0]} filters, expected one for each of x's {x.shape[1]} channels"
        )
    at = geometry.transposed(op, x, weight, stride, padding, output_padding, dilation)
    if select.runs_reference(op, x):
        return reference.depthwise_conv_transpose(x, weight, bias, *at)
    if _differentiates(x, weight, bias):
        y: Tensor = _DepthwiseConvTranspose.apply(x, weight, bias, at)
        return y
    return transpose_op(x, weight, bias, *at, x.shape[1])


def _checked(
    op: str, rank: int, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors in one dtype: that of x, or autocast's, as torch's convolutions do it."""
    checks.check_image(op, "x", x, rank)
    x, weight, bias = checks.autocast(x, weight, bias)
    checks.check_depthwise_weight(op, "weight", weight, x)
    checks.check_vector(op, "bias", bias, weight.shape[0], x)
    checks.check_same_dtype(op, "weight", weight, x)
    checks.check_same_dtype(op, "bias", bias, x)
    return x, weight, bias


def _differentiates(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _sum_over_pixels(grad: Tensor, dtype: torch.dtype) -> Tensor:
    compute = torch.promote_types(grad.dtype, torch.float32)
    return grad.sum((0, *range(2, grad.ndim)), dtype=compute).to(dtype)


def _convolution_gradients(
    grad: Tensor, x: Tensor | None, weight: Tensor, at: Geometry, shape: Sequence[int], wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x (of ``shape``), weight and bias; x may be None where that of weight is not wanted."""
    if x is None:
        return (
            transpose_op(grad, weight, None, at.stride, at.padding, at.dilation, shape[2:], shape[1])
            if wanted[0]
            else None,
            None,
            _sum_over_pixels(grad, weight.dtype) if wanted[2] else None,
        )
    dx, dweight, dbias = backward_op(grad, x, weight, at.stride, at.padding, at.dilation, list(wanted))
    return (
        dx if wanted[0] else None,
        dweight.to(weight.dtype) if wanted[1] else None,
        dbias.to(weight.dtype) if wanted[2] else None,
    )


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, at: Geometry) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.at, ctx.shape = at, x.shape
        return forward_op(x, weight, bias, *at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_convolution_gradients(grad, x, weight, ctx.at, ctx.shape, ctx.needs_input_grad[:3]), None


class _DepthwiseConvTranspose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, at: Geometry) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.at, ctx.shape = at, x.shape
        return transpose_op(x, weight, bias, *at, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        at = ctx.at
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = forward_op(grad, weight, None, at.stride, at.padding, at.dilation, ctx.shape[2:])
        if ctx.needs_input_grad[1]:  # x is to the convolution what the gradient of its output is
            weight_only = [False, True, False]
            dweight = backward_op(x, grad, weight, at.stride, at.padding, at.dilation, weight_only)[1].to(weight.dtype)
        if ctx.needs_input_grad[2]:
            dbias = _sum_over_pixels(grad, weight.dtype)
        return dx, dweight, dbias, None


class _DepthwiseInstanceNormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        at: Geometry,
        activation: str,
        negative_slope: float,
        eps: float,
    ) -> Tensor:
        y, mean, rstd = statistics_op(x, weight, bias, *at, eps)
        kept = x if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(kept, weight, norm_weight, norm_bias, y, mean, rstd)
        ctx.at, ctx.shape, ctx.activation, ctx.negative_slope = at, x.shape, activation, negative_slope
        return apply_op(y, mean, rstd, norm_weight, norm_bias, activation, negative_slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, norm_weight, norm_bias, y, mean, rstd = ctx.saved_tensors
        dy, dnorm_weight, dnorm_bias, _ = norm_backward_op(
            grad, y, norm_weight, norm_bias, None, mean, rstd, ctx.activation, ctx.negative_slope
        )
        return (
            *_convolution_gradients(dy, x, weight, ctx.at, ctx.shape, ctx.needs_input_grad[:3]),
            dnorm_weight.to(norm_weight.dtype) if ctx.needs_input_grad[3] else None,
            dnorm_bias.to(norm_bias.dtype) if ctx.needs_input_grad[4] else None,
            None,
            None,
            None,
            None,
        )
