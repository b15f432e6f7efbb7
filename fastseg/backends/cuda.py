"""Launches the CUDA C++ kernels of ``fastseg._C``. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.views import ACTIVATION, ELEMENT, as_layout, optional_view, statistics_like, vector, view


def instance_norm_act_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    x = as_layout(x, "rows")
    if residual is not None:
        residual = as_layout(residual, "rows")
    batch, channels = x.shape[0], x.shape[1]
    y, mean, rstd = torch.empty_like(x), statistics_like(x), statistics_like(x)
    with torch.cuda.device(x.device):
        workspace = _workspace(x)
        _C.cuda_instance_norm_act_forward(
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
            workspace.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
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
    x = as_layout(x, "rows")
    grad = as_layout(grad, "rows")
    if y is not None:
        y = as_layout(y, "rows")
    batch, channels = x.shape[0], x.shape[1]
    dx, dweight, dbias = torch.empty_like(x), statistics_like(x), statistics_like(x)
    dresidual = torch.empty_like(x) if y is not None else None
    with torch.cuda.device(x.device):
        workspace = _workspace(x)
        _C.cuda_instance_norm_act_backward(
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
            workspace.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    return dx, dweight.sum(0), dbias.sum(0), x.new_empty((0,)) if dresidual is None else dresidual


def _workspace(x: Tensor) -> Tensor:
    """Scratch for the partial sums of streamed rows; torch's allocator keeps it alive for the current stream."""
    batch, channels = x.shape[0], x.shape[1]
    nbytes = _C.cuda_instance_norm_act_workspace(batch, channels, x.numel() // (batch * channels), ELEMENT[x.dtype])
    return torch.empty((nbytes,), dtype=torch.uint8, device=x.device)
