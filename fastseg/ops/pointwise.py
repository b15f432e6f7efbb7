"""1x1 convolutions: a kernel of ours where vendors' routines are slow, theirs elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import layout_of, new_output
from fastseg.ops import checks
from fastseg.ops.registry import register

_NAME = "pointwise_conv"


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution, as ``torch.nn.functional.conv2d`` and ``conv3d`` with a kernel of one pixel.

    On the CPU a kernel of ours reads contiguous and channels-last images as they lie; on GPUs torch's own runs.

    Args:
        x: (N, C, H, W) or (N, C, D, H, W); float32, float64, bfloat16 or float16.
        weight: (O, C, 1, 1) or (O, C, 1, 1, 1) of x's dtype.
        bias: (O,) of x's dtype, or None.

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
    if select.runs_reference(_NAME, x):
        return reference.pointwise_conv(x, weight, bias)
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        y: Tensor = _PointwiseConv.apply(x, weight, bias)
        return y
    return _forward_op(x, weight, bias)


def check_parameters(x: Tensor, channels: int, weight: Tensor, bias: Tensor | None, op: str = _NAME) -> None:
    """What a 1x1 convolution asks of its weight and bias, for an input of x's rank and dtype with ``channels``."""
    if weight.ndim != x.ndim or weight.shape[1] != channels or weight.shape[2:].numel() != 1:
        expected = ("O", channels, *[1] * (x.ndim - 2))
        raise ValueError(f"{op}: weight has shape {tuple(weight.shape)}, expected ({', '.join(map(str, expected))})")
    checks.check_device(op, "weight", weight, x)
    checks.check_vector(op, "bias", bias, weight.shape[0], x)
    checks.check_same_dtype(op, "weight", weight, x)
    checks.check_same_dtype(op, "bias", bias, x)


class _PointwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _forward_op(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad)
        dx, dweight, dbias = _backward_op(grad, x, weight, wanted)
        return (
            dx if wanted[0] else None,
            dweight.to(weight.dtype) if wanted[1] else None,
            dbias.to(weight.dtype) if wanted[2] else None,
        )


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.numel() == 0 or weight.numel() == 0:
        y = _forward_fake(x, weight, bias).zero_()
        return y if bias is None else y.add_(bias.view(1, -1, *[1] * (x.ndim - 2)))
    return select.kernel(_NAME, x).pointwise_conv_forward(x, weight, bias)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
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


_forward_op = register("pointwise_conv(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _forward, _forward_fake)
# What is not wanted is empty; gradients of weight and bias come together, in the dtype that kernels compute in.
_backward_op = register(
    "pointwise_conv_backward(Tensor grad, Tensor x, Tensor weight, bool[] wanted) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward,
    _backward_fake,
)
