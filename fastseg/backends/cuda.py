"""Launches the CUDA C++ kernels of ``fastseg._C``. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.views import (
    ACTIVATION,
    ELEMENT,
    Layout,
    as_layout,
    depthwise_layouts,
    depthwise_shape,
    memory_format,
    new_output,
    optional_view,
    statistics_like,
    vector,
    view,
)


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


def instance_norm_act_apply(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Tensor:
    """act((x - mean) * rstd * weight + bias), with statistics that another kernel gathered."""
    x = as_layout(x, "rows")
    batch, channels = x.shape[0], x.shape[1]
    y = torch.empty_like(x)
    with torch.cuda.device(x.device):
        _C.cuda_instance_norm_act_apply(
            batch,
            channels,
            x.numel() // (batch * channels),
            view(x),
            vector(weight),
            vector(bias),
            view(y),
            mean.data_ptr(),
            rstd.data_ptr(),
            ACTIVATION[activation],
            negative_slope,
            torch.cuda.current_stream().cuda_stream,
        )
    return y


def depthwise_conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
    eps: float | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y, and with ``eps`` also the mean and 1 / sqrt(variance + eps) of each of its channels."""
    wanted_layout, layout = depthwise_layouts(x, weight.shape[0] != x.shape[1])
    x, weight = as_layout(x, layout), weight.contiguous()
    y = new_output(x, weight.shape[0], size, layout)
    mean = rstd = None
    if eps is not None:
        mean, rstd = statistics_like(y), statistics_like(y)
    shape = depthwise_shape(x.shape, weight.shape, stride, padding, dilation, size)
    with torch.cuda.device(x.device):
        workspace = _depthwise_workspace(x, shape, layout, backward=False, reduces=eps is not None)
        _C.cuda_depthwise_conv_forward(
            shape,
            view(x),
            weight.data_ptr(),
            vector(bias),
            view(y),
            0 if mean is None else mean.data_ptr(),
            0 if rstd is None else rstd.data_ptr(),
            eps or 0.0,
            workspace.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    return y.contiguous(memory_format=memory_format(wanted_layout, len(size))), mean, rstd


def depthwise_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The wanted ones of dx, dweight and dbias; those of parameters in the dtype that kernels compute in."""
    wanted_layout, layout = depthwise_layouts(x, weight.shape[0] != x.shape[1])
    x, grad, weight = as_layout(x, layout), as_layout(grad, layout), weight.contiguous()
    dx = new_output(x, x.shape[1], x.shape[2:], layout) if wanted[0] else None
    compute = torch.promote_types(x.dtype, torch.float32)
    dweight = torch.empty(weight.shape, dtype=compute, device=x.device) if wanted[1] else None
    dbias = torch.empty(weight.shape[:1], dtype=compute, device=x.device) if wanted[2] else None
    shape = depthwise_shape(x.shape, weight.shape, stride, padding, dilation, grad.shape[2:])
    with torch.cuda.device(x.device):
        workspace = _depthwise_workspace(x, shape, layout, backward=True, reduces=wanted[1] or wanted[2])
        _C.cuda_depthwise_conv_backward(
            shape,
            view(grad),
            view(x) if wanted[1] else None,
            weight.data_ptr(),
            None,
            optional_view(dx),
            0 if dweight is None else dweight.data_ptr(),
            0 if dbias is None else dbias.data_ptr(),
            workspace.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )
    if dx is not None:
        dx = dx.contiguous(memory_format=memory_format(wanted_layout, len(stride)))
    return dx, dweight, dbias


def depthwise_conv_transpose_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
    channels: int,
) -> Tensor:
    """The gradient of a depthwise convolution with respect to its input of ``channels`` channels, plus bias."""
    wanted_layout, layout = depthwise_layouts(x, channels != x.shape[1])
    x, weight = as_layout(x, layout), weight.contiguous()
    y = new_output(x, channels, size, layout)
    with torch.cuda.device(x.device):
        _C.cuda_depthwise_conv_backward(
            depthwise_shape(y.shape, weight.shape, stride, padding, dilation, x.shape[2:]),
            view(x),
            None,
            weight.data_ptr(),
            vector(bias),
            view(y),
            0,
            0,
            0,
            torch.cuda.current_stream().cuda_stream,
        )
    return y.contiguous(memory_format=memory_format(wanted_layout, len(size)))


def _workspace(x: Tensor) -> Tensor:
    """Scratch for the partial sums of streamed rows."""
    batch, channels = x.shape[0], x.shape[1]
    return _scratch(
        x, _C.cuda_instance_norm_act_workspace(batch, channels, x.numel() // (batch * channels), ELEMENT[x.dtype])
    )


def _depthwise_workspace(x: Tensor, shape: tuple[int, ...], layout: Layout, backward: bool, reduces: bool) -> Tensor:
    """Scratch for the partial sums of statistics and of the gradients of parameters."""
    channels_last = layout == "channels_last"
    return _scratch(x, _C.cuda_depthwise_conv_workspace(shape, ELEMENT[x.dtype], channels_last, backward, reduces))


def _scratch(x: Tensor, nbytes: int) -> Tensor:
    """torch's allocator keeps it alive for the current stream."""
    return torch.empty((nbytes,), dtype=torch.uint8, device=x.device)
