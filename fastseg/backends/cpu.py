"""Launches the CPU kernels of ``fastseg._C``. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.memory import empty_like
from fastseg.backends.views import ACTIVATION, as_layout, layout_of, optional_view, statistics_like, vector, view


def instance_norm_act_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    layout = layout_of(x)
    if layout is None:
        x, layout = x.contiguous(), "rows"
    if residual is not None:
        residual = as_layout(residual, layout)
    batch, channels = x.shape[0], x.shape[1]
    y = empty_like(x)
    mean, rstd = statistics_like(x), statistics_like(x)
    _C.instance_norm_act_forward(
        batch,
        channels,
        x.numel() // (batch * channels),
        view(x),
        vector(weight),
        vector(bias),
        optional_view(residual),
        view(y),
        mean.data_ptr(),
        rstd.data_ptr(),
        ACTIVATION[activation],
        negative_slope,
        eps,
        torch.get_num_threads(),
    )
    return y, mean, rstd


def instance_norm_act_backward(
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
    layout = layout_of(x)
    if layout is None:
        x, layout = x.contiguous(), "rows"
    grad = as_layout(grad, layout)
    if y is not None:
        y = as_layout(y, layout)
    batch, channels = x.shape[0], x.shape[1]
    dx = empty_like(x)
    dresidual = empty_like(x) if y is not None else None
    dweight, dbias = statistics_like(x), statistics_like(x)
    _C.instance_norm_act_backward(
        batch,
        channels,
        x.numel() // (batch * channels),
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
        torch.get_num_threads(),
    )
    return dx, dweight.sum(0), dbias.sum(0), x.new_empty((0,)) if dresidual is None else dresidual
