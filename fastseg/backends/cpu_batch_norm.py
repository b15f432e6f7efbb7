"""Launches the CPU kernels of batch norm: those of instance norm with statistics over the batch too."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.memory import new_output
from fastseg.backends.views import (
    ACTIVATION,
    Layout,
    as_layout,
    layout_of,
    memory_format,
    optional_view,
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
    layout = layout_of(x) or "rows"
    x = _samples_together(x, layout)
    if residual is not None:
        residual = _samples_together(residual, layout)
    y = new_output(x, x.shape[1], x.shape[2:], layout)
    _C.batch_norm_act_forward(
        *_shape(x, layout),
        view(x),
        vector(weight),
        vector(bias),
        optional_view(residual),
        view(y),
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
    layout = layout_of(x) or "rows"
    x, grad = _samples_together(x, layout), _samples_together(grad, layout)
    dresidual = None
    if y is not None:
        y = _samples_together(y, layout)
        dresidual = new_output(x, x.shape[1], x.shape[2:], layout)
    dx = new_output(x, x.shape[1], x.shape[2:], layout)
    dweight, dbias = _statistics(x), _statistics(x)
    _C.batch_norm_act_backward(
        *_shape(x, layout),
        view(grad),
        view(x),
        vector(weight),
        vector(bias),
        optional_view(y),
        mean.data_ptr(),
        rstd.data_ptr(),
        view(dx),
        optional_view(dresidual),
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
    return torch.empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))


def _samples_together(t: Tensor, layout: Layout) -> Tensor:
    """``t`` in ``layout``; in channels-last the pixels of all samples must follow each other at one stride."""
    t = as_layout(t, layout)
    if layout == "channels_last" and t.stride(0) != t.shape[2:].numel() * (spatial_stride(t) or 0):
        t = t.contiguous(memory_format=memory_format(layout, t.ndim - 2))
    return t


def _shape(x: Tensor, layout: Layout) -> tuple[int, int, int]:
    """Batch, channels and spatial elements as the kernel takes them: channels-last batches are one long sample."""
    batch, channels, spatial = x.shape[0], x.shape[1], x.shape[2:].numel()
    return (batch, channels, spatial) if layout == "rows" else (1, channels, batch * spatial)
