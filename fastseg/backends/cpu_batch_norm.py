"""Launches the CPU kernels of batch norm: those of instance norm with statistics over the batch too."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.memory import empty_like
from fastseg.backends.views import (
    ACTIVATION,
    ELEMENT,
    Layout,
    View,
    as_layout,
    layout_of,
    memory_format,
    spatial_stride,
    vector,
    view,
)


def batch_norm_act_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, mean, 1 / sqrt(variance + eps) and the unbiased variance of each channel."""
    mean, rstd, variance = (_statistics(x) for _ in range(3))
    y = _forward(x, weight, bias, residual, mean, rstd, variance, activation, negative_slope, eps)
    return y, mean, rstd, variance


def batch_norm_act_apply(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Tensor:
    """The same with statistics that are given: dense, in the dtype that kernels compute in."""
    return _forward(x, weight, bias, residual, mean, rstd, None, activation, negative_slope, 0.0)


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    variance: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> Tensor:
    shape = _shape(x)
    x, x_view = _shown(x, shape)
    # The second tensor holds what the view points to, where that is a copy.
    residual, residual_view = (None, None) if residual is None else _shown(residual, shape)
    y = empty_like(x, shape.format)
    _C.batch_norm_act_forward(
        *shape.sizes,
        x_view,
        vector(weight),
        vector(bias),
        residual_view,
        _shown(y, shape)[1],
        mean.data_ptr(),
        rstd.data_ptr(),
        0 if variance is None else variance.data_ptr(),
        ACTIVATION[activation],
        negative_slope,
        eps,
        torch.get_num_threads(),
    )
    return y


def batch_norm_act_backward(
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
    shape = _shape(x)
    x, x_view = _shown(x, shape)
    grad, grad_view = _shown(grad, shape)
    dx = empty_like(x, shape.format)
    y_view = dresidual = dresidual_view = None
    if y is not None:
        y, y_view = _shown(y, shape)
        dresidual = empty_like(x, shape.format)
        dresidual_view = _shown(dresidual, shape)[1]
    dweight, dbias = _statistics(x), _statistics(x)
    _C.batch_norm_act_backward(
        *shape.sizes,
        grad_view,
        x_view,
        vector(weight),
        vector(bias),
        y_view,
        mean.data_ptr(),
        rstd.data_ptr(),
        _shown(dx, shape)[1],
        dresidual_view,
        dweight.data_ptr(),
        dbias.data_ptr(),
        ACTIVATION[activation],
        negative_slope,
        statistics_fixed,
        torch.get_num_threads(),
    )
    return dx, dweight, dbias, x.new_empty((0,)) if dresidual is None else dresidual


def _statistics(x: Tensor) -> Tensor:
    """Uninitialised: one number for each channel of x, in the dtype that kernels compute in."""
    return torch.empty(x.shape[1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


class _Shape(NamedTuple):
    """How a call's tensors lie: found out once, and compared with each of them by one question to torch."""

    layout: Layout
    format: torch.memory_format
    sizes: tuple[int, int, int]  # batch, channels, spatial as the kernel takes them
    strides: tuple[int, int, int]  # of a dense tensor in ``layout``, along these


def _shape(x: Tensor) -> _Shape:
    """Channels-last batches are one long sample."""
    layout = layout_of(x) or "rows"
    batch, channels, *size = x.shape
    spatial = math.prod(size)
    format = memory_format(layout, len(size))
    if layout == "rows":
        return _Shape(layout, format, (batch, channels, spatial), (channels * spatial, spatial, 1))
    return _Shape(layout, format, (1, channels, batch * spatial), (channels * spatial, 1, channels))


def _shown(t: Tensor, shape: _Shape) -> tuple[Tensor, View]:
    """``t``, or a copy of it in the call's layout, and how the kernel sees it.

    In channels-last the pixels of all samples must follow each other at one stride.
    """
    if t.is_contiguous(memory_format=shape.format):
        return t, (t.data_ptr(), ELEMENT[t.dtype], *shape.strides)
    t = as_layout(t, shape.layout)
    if shape.layout == "channels_last" and t.stride(0) != t.shape[2:].numel() * (spatial_stride(t) or 0):
        t = t.contiguous(memory_format=shape.format)
    return t, view(t)
