"""The torch ops of the depthwise family: schemas, fakes, and which launcher runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.backends import select
from fastseg.backends.views import layout_of, new_output
from fastseg.ops.registry import register


def _name(x: Tensor) -> str:
    return f"depthwise_conv{x.ndim - 2}d"


def _empty_output(x: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    return new_output(x, channels, size, layout_of(x) or "rows")


def _compute(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
) -> Tensor:
    if x.numel() == 0:
        return _forward_fake(x, weight, bias, stride, padding, dilation, size)
    launch = select.kernel(_name(x), x).depthwise_conv_forward
    return launch(x, weight, bias, stride, padding, dilation, size, None)[0]


def _forward_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
) -> Tensor:
    return _empty_output(x, weight.shape[0], size)


def _statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        return _statistics_fake(x, weight, bias, stride, padding, dilation, size, eps)
    launch = select.kernel(_name(x), x).depthwise_conv_forward
    return launch(x, weight, bias, stride, padding, dilation, size, eps)


def _statistics_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty((x.shape[0], weight.shape[0]), dtype=_compute(x)) for _ in range(2))
    return _empty_output(x, weight.shape[0], size), mean, rstd


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        dx, dweight, dbias = _backward_fake(grad, x, weight, stride, padding, dilation, wanted)
        return dx, dweight.zero_(), dbias.zero_()
    launch = select.kernel(_name(x), x).depthwise_conv_backward
    dx, dweight, dbias = launch(grad, x, weight, stride, padding, dilation, wanted)
    return (
        x.new_empty((0,)) if dx is None else dx,
        x.new_empty((0,), dtype=_compute(x)) if dweight is None else dweight,
        x.new_empty((0,), dtype=_compute(x)) if dbias is None else dbias,
    )


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        _empty_output(x, x.shape[1], x.shape[2:]) if wanted[0] else x.new_empty((0,)),
        x.new_empty(weight.shape if wanted[1] else (0,), dtype=_compute(x)),
        x.new_empty(weight.shape[:1] if wanted[2] else (0,), dtype=_compute(x)),
    )


def _transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
    channels: int,
) -> Tensor:
    if x.numel() == 0:
        return _transpose_fake(x, weight, bias, stride, padding, dilation, size, channels)
    launch = select.kernel(_name(x), x).depthwise_conv_transpose_forward
    return launch(x, weight, bias, stride, padding, dilation, size, channels)


def _transpose_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
    channels: int,
) -> Tensor:
    return _empty_output(x, channels, size)


def _separable(
    x: Tensor,
    weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
) -> Tensor:
    if x.numel() == 0:
        return _separable_fake(x, weight, pointwise_weight, bias, pointwise_bias, stride, padding, dilation, size)
    launch = select.kernel(_name(x), x).separable_conv_forward
    return launch(x, weight, pointwise_weight, bias, pointwise_bias, stride, padding, dilation, size)


def _separable_fake(
    x: Tensor,
    weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    size: list[int],
) -> Tensor:
    return _empty_output(x, pointwise_weight.shape[0], size)


_GEOMETRY = "int[] stride, int[] padding, int[] dilation"

forward_op = register(
    f"depthwise_conv(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, SymInt[] size) -> Tensor",
    _forward,
    _forward_fake,
)
#: y, and the mean and 1 / sqrt(variance + eps) of each of its channels.
statistics_op = register(
    f"depthwise_conv_statistics(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, SymInt[] size, float eps) "
    "-> (Tensor y, Tensor mean, Tensor rstd)",
    _statistics,
    _statistics_fake,
)
#: What is not wanted is empty. Gradients of parameters have the dtype that kernels compute in.
backward_op = register(
    f"depthwise_conv_backward(Tensor grad, Tensor x, Tensor weight, {_GEOMETRY}, bool[] wanted) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward,
    _backward_fake,
)
#: The gradient with respect to an input of ``channels`` channels and ``size``, plus bias.
transpose_op = register(
    f"depthwise_conv_transpose(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, SymInt[] size, SymInt channels) "
    "-> Tensor",
    _transpose,
    _transpose_fake,
)
#: On the CPU only, where one kernel may do both.
separable_op = register(
    "depthwise_separable_conv(Tensor x, Tensor weight, Tensor pointwise_weight, Tensor? bias, Tensor? pointwise_bias, "
    f"{_GEOMETRY}, SymInt[] size) -> Tensor",
    _separable,
    _separable_fake,
)
