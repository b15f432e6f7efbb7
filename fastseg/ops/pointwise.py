"""1x1 convolutions: a kernel of ours where vendors' routines are slow, theirs elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import layout_of, memory_format, new_output
from fastseg.ops import checks
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.registry import register
from fastseg.reference.depthwise import nearest_to

_NAME = "pointwise_conv"


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, residual: Tensor | None = None) -> Tensor:
    """A 1x1 convolution, as ``torch.nn.functional.conv2d`` and ``conv3d`` with a kernel of one pixel, plus a residual.

    On the CPU a kernel of ours reads contiguous and channels-last images as they lie, and adds the residual before it
    writes; on GPUs torch's own ops run.

    A residual of half the size is up-sampled nearest. With it the 1x1 convolution of a skip connection beside
    up-sampled features, of weight [S; F] over their channels, is
    ``pointwise_conv(skip, S, bias, residual=pointwise_conv(features, F))``, for up-sampling may come after it.

    Args:
        x: (N, C, H, W) or (N, C, D, H, W); float32, float64, bfloat16 or float16.
        weight: (O, C, 1, 1) or (O, C, 1, 1, 1) of x's dtype.
        bias: (O,) of x's dtype, or None.
        residual: of x's dtype, or None: (N, O, *spatial), or with half of each spatial size.

    Returns:
        (N, O, *spatial) of x's dtype and memory format.

    Raises:
        ValueError: wrong rank, shape or device.
        TypeError: an integer or complex tensor, or dtypes that differ. Under autocast all are cast, as torch's are.
    """
    if x.ndim not in (4, 5):
        raise ValueError(f"{_NAME}: x has shape {tuple(x.shape)}, expected rank 4 or 5: (N, C, *spatial)")
    checks.check_image(_NAME, "x", x)
    x, weight, bias = checks.autocast(x, weight, bias)
    check_parameters(x, x.shape[1], weight, bias)
    if residual is not None:
        residual, _, _ = checks.autocast(residual, weight, None)
        _check_residual(x, weight.shape[0], residual)
    if select.runs_reference(_NAME, x):
        return reference.pointwise_conv(x, weight, bias, residual)
    arguments = (x, weight, bias, residual)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
        y: Tensor = _PointwiseConv.apply(*arguments)
        return y
    return _forward_op(*arguments)


def check_parameters(x: Tensor, channels: int, weight: Tensor, bias: Tensor | None, op: str = _NAME) -> None:
    """What a 1x1 convolution asks of its weight and bias, for an input of x's rank and dtype with ``channels``."""
    if weight.ndim != x.ndim or weight.shape[1] != channels or weight.shape[2:].numel() != 1:
        expected = ("O", channels, *[1] * (x.ndim - 2))
        raise ValueError(f"{op}: weight has shape {tuple(weight.shape)}, expected ({', '.join(map(str, expected))})")
    checks.check_device(op, "weight", weight, x)
    checks.check_vector(op, "bias", bias, weight.shape[0], x)
    checks.check_same_dtype(op, "weight", weight, x)
    checks.check_same_dtype(op, "bias", bias, x)


def _check_residual(x: Tensor, outputs: int, residual: Tensor) -> None:
    whole = (x.shape[0], outputs, *x.shape[2:])
    scale = 1 if residual.ndim != x.ndim or residual.shape[2:] == x.shape[2:] else 2
    # Size by size: of a comparison of shapes torch.compile cannot tell that one size is twice the other.
    scaled = (*residual.shape[:2], *(scale * size for size in residual.shape[2:]))
    if len(scaled) != len(whole) or any(size != expected for size, expected in zip(scaled, whole, strict=True)):
        raise ValueError(
            f"{_NAME}: residual has shape {tuple(residual.shape)}, expected {whole} or half of these spatial sizes"
        )
    checks.check_device(_NAME, "residual", residual, x)
    checks.check_same_dtype(_NAME, "residual", residual, x)


class _PointwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.residual_size = None if residual is None else residual.shape[2:]
        return _forward_op(x, weight, bias, residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        *wanted, wants_residual = ctx.needs_input_grad
        dx, dweight, dbias = _backward_op(grad, x, weight, wanted)
        return (
            dx if wanted[0] else None,
            dweight.to(weight.dtype) if wanted[1] else None,
            dbias.to(weight.dtype) if wanted[2] else None,
            _residual_gradient(grad, ctx.residual_size) if wants_residual else None,
        )


def _residual_gradient(grad: Tensor, size: Sequence[int]) -> Tensor:
    return grad if grad.shape[2:] == torch.Size(size) else _residual_gradient_op(grad, size)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
    if x.numel() == 0 or weight.numel() == 0:
        y = _forward_fake(x, weight, bias).zero_()
        if bias is not None:
            y.add_(bias.view(1, -1, *[1] * (x.ndim - 2)))
        return y if residual is None or y.numel() == 0 else y.add_(nearest_to(residual, y.shape[2:]))
    return select.kernel(_NAME, x).pointwise_conv_forward(x, weight, bias, residual)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
    return new_output(x, weight.shape[0], x.shape[2:], layout_of(x) or "rows")


def _backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0 or weight.numel() == 0:
        dx, dweight, dbias = _backward_fake(grad, x, weight, wanted)
        return dx.zero_(), dweight.zero_(), grad.sum((0, *range(2, grad.ndim)), dtype=dbias.dtype)
    return select.kernel(_NAME, x).pointwise_conv_backward(grad, x, weight, wanted)


def _backward_fake(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    compute = torch.promote_types(x.dtype, torch.float32)
    parameters = wanted[1] or wanted[2]
    return (
        new_output(x, x.shape[1], x.shape[2:], layout_of(x) or "rows") if wanted[0] else x.new_empty((0,)),
        x.new_empty(weight.shape if parameters else (0,), dtype=compute),
        x.new_empty(weight.shape[:1] if parameters else (0,), dtype=compute),
    )


def _sum_blocks(grad: Tensor, size: Sequence[int]) -> Tensor:
    """Over the pixels that each pixel of a residual of half the size was added to."""
    if grad.numel() == 0:
        return _sum_blocks_fake(grad, size).zero_()
    aten, layout = torch.ops.aten, layout_of(grad) or "rows"
    sums = aten.upsample_nearest2d_backward if grad.ndim == 4 else aten.upsample_nearest3d_backward
    dresidual: Tensor = sums(grad, grad.shape[2:], (*grad.shape[:2], *size))
    return dresidual.contiguous(memory_format=memory_format(layout, len(size)))  # torch's of volumes are contiguous


def _sum_blocks_fake(grad: Tensor, size: Sequence[int]) -> Tensor:
    return new_output(grad, grad.shape[1], size, layout_of(grad) or "rows")


_forward_op = register(
    "pointwise_conv(Tensor x, Tensor weight, Tensor? bias, Tensor? residual=None) -> Tensor", _forward, _forward_fake
)
# What is not wanted is empty; gradients of weight and bias come together, in the dtype that kernels compute in.
_backward_op = register(
    "pointwise_conv_backward(Tensor grad, Tensor x, Tensor weight, bool[] wanted) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward,
    _backward_fake,
)
_residual_gradient_op = register(
    "pointwise_conv_residual_gradient(Tensor grad, SymInt[] size) -> Tensor", _sum_blocks, _sum_blocks_fake
)
