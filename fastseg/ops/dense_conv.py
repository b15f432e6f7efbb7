"""Convolutions of all channels, with strides, and transposed ones: what halves images and what doubles them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import convolved_layout, memory_format, new_output, weight_layout
from fastseg.ops import checks
from fastseg.ops.geometry import Axes, Geometry, Padding, convolution, transposed
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.registry import register


def dense_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Axes = 1,
    padding: Padding = 0,
    dilation: Axes = 1,
) -> Tensor:
    r"""A convolution of all channels, as ``torch.nn.functional.conv2d`` and ``conv3d`` with ``groups=1``.

    .. math:: y_{n,o,p} = bias_o + \sum_{c,k} weight_{o,c,k} x_{n, c, p \cdot stride + k \cdot dilation - padding}

    with zeros outside of x.

    Args:
        x: (N, C, H, W) or (N, C, D, H, W); float32, float64, bfloat16 or float16. Contiguous and channels-last are read
            as they lie.
        weight: (O, C, kH, kW) or (O, C, kD, kH, kW) of x's dtype.
        bias: (O,) of x's dtype, or None.
        stride: in pixels, for all axes or for each.
        padding: zeros on both sides, likewise; or "same" (with stride 1) or "valid".
        dilation: in pixels, for all axes or for each.

    Returns:
        (N, O, *size) of x's dtype and memory format, each size (image + 2 * padding - dilation * (kernel - 1) - 1)
        // stride + 1.

    Raises:
        ValueError: wrong rank, shape, device or geometry, or an output without a pixel.
        TypeError: an integer or complex tensor, or dtypes that differ. Under autocast all are cast, as torch's are.

    On the CPU a kernel of ours runs, on GPUs the vendor's. For backward it keeps x and the weight. Not twice
    differentiable: use ``fastseg.backend("reference")`` for that.
    """
    op = "dense_conv"
    x, weight, bias = checks.convolution_inputs(op, x, weight, bias, inputs_axis=1)
    return _run(op, x, weight, bias, convolution(op, x, weight, stride, padding, dilation), is_transposed=False)


def dense_conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Axes = 1,
    padding: Axes = 0,
    output_padding: Axes = 0,
    dilation: Axes = 1,
) -> Tensor:
    r"""The transposed convolution of all channels, as ``torch.nn.functional.conv_transpose2d`` and ``3d``.

    .. math:: y_{n, o, p \cdot stride + k \cdot dilation - padding} = bias_o + \sum_{c} weight_{c,o,k} x_{n,c,p}

    summed up over all p and k that give the same pixel. Where the stride is the kernel's size
    :func:`~fastseg.ops.up_conv` is faster.

    Args:
        x: (N, C, H, W) or (N, C, D, H, W), as in :func:`dense_conv`.
        weight: (C, O, kH, kW) or (C, O, kD, kH, kW) of x's dtype.
        bias: (O,) of x's dtype, or None.
        stride: in pixels of the output, for all axes or for each.
        padding: pixels of the output that are left out on both sides, likewise.
        output_padding: pixels more behind, likewise; less than stride or dilation.
        dilation: in pixels of the output, likewise.

    Returns:
        (N, O, *size) of x's dtype and memory format, each size (image - 1) * stride - 2 * padding + dilation *
        (kernel - 1) + output_padding + 1.

    Raises:
        ValueError, TypeError: as :func:`dense_conv`.
    """
    op = "dense_conv_transpose"
    x, weight, bias = checks.convolution_inputs(op, x, weight, bias, inputs_axis=0)
    geometry = transposed(op, x, weight, stride, padding, output_padding, dilation)
    return _run(op, x, weight, bias, geometry, is_transposed=True)


def _run(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, *, is_transposed: bool) -> Tensor:
    if select.runs_reference(op, x):
        of_torch = reference.dense_conv_transpose if is_transposed else reference.dense_conv
        return of_torch(x, weight, bias, *geometry)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        y: Tensor = _DenseConv.apply(x, weight, bias, *geometry, is_transposed)
        return y
    return _forward_op(x, weight, bias, *geometry, is_transposed)


class _DenseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        size: list[int],
        is_transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation, is_transposed
        return _forward_op(x, weight, bias, stride, padding, dilation, size, is_transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        dx, dweight, dbias = _backward_op(grad, x, weight, *ctx.geometry, wanted)
        return (
            dx if wanted[0] else None,
            dweight.to(weight.dtype) if wanted[1] else None,
            dbias.to(weight.dtype) if wanted[2] else None,
            *(None,) * 5,
        )


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
    is_transposed: bool,
) -> Tensor:
    if x.numel() == 0 or weight.numel() == 0:
        y = _forward_fake(x, weight, bias, stride, padding, dilation, size, is_transposed).zero_()
        return y if bias is None else y.add_(bias.view(1, -1, *[1] * (x.ndim - 2)))
    launch = select.kernel(_name(is_transposed), x).dense_conv_forward
    return launch(x, weight, bias, stride, padding, dilation, size, is_transposed)


def _forward_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
    is_transposed: bool,
) -> Tensor:
    return new_output(x, weight.shape[1 if is_transposed else 0], size, convolved_layout(x))


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    is_transposed: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0 or weight.numel() == 0:
        dx, dweight, dbias = _backward_fake(grad, x, weight, stride, padding, dilation, is_transposed, wanted)
        if wanted[2]:
            dbias = grad.sum((0, *range(2, grad.ndim)), dtype=dbias.dtype)
        return dx.zero_(), dweight.zero_(), dbias
    launch = select.kernel(_name(is_transposed), x).dense_conv_backward
    dx, dweight, dbias = launch(grad, x, weight, stride, padding, dilation, is_transposed, wanted)
    compute = torch.promote_types(x.dtype, torch.float32)
    return (
        x.new_empty((0,)) if dx is None else dx,
        x.new_empty((0,), dtype=compute) if dweight is None else dweight,
        x.new_empty((0,), dtype=compute) if dbias is None else dbias,
    )


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    is_transposed: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    compute = torch.promote_types(x.dtype, torch.float32)
    dx = new_output(x, x.shape[1], x.shape[2:], convolved_layout(x)) if wanted[0] else x.new_empty((0,))
    dweight, dbias = (x.new_empty((0,), dtype=compute) for _ in range(2))
    if wanted[1]:
        layout = memory_format(weight_layout(weight), weight.ndim - 2)
        dweight = torch.empty(weight.shape, dtype=compute, device=x.device, memory_format=layout)
    if wanted[2]:
        dbias = x.new_empty(weight.shape[1:2] if is_transposed else weight.shape[:1], dtype=compute)
    return dx, dweight, dbias


def _name(is_transposed: bool) -> str:
    return "dense_conv_transpose" if is_transposed else "dense_conv"


# What is not wanted is empty; gradients of weight and bias come in the dtype that kernels compute in.
_forward_op = register(
    "dense_conv(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, SymInt[] size, "
    "bool is_transposed) -> Tensor",
    _forward,
    _forward_fake,
)
_backward_op = register(
    "dense_conv_backward(Tensor grad, Tensor x, Tensor weight, int[] stride, int[] padding, int[] dilation, "
    "bool is_transposed, bool[] wanted) -> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward,
    _backward_fake,
)
