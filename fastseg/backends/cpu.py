"""Launches the CPU kernels of ``fastseg._C``. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.memory import empty_like, new_output
from fastseg.backends.views import (
    ACTIVATION,
    Layout,
    as_layout,
    depthwise_layouts,
    depthwise_shape,
    layout_of,
    memory_format,
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
    if layout_of(x) is None:
        x = x.contiguous()
    batch, channels = x.shape[0], x.shape[1]
    y = empty_like(x)
    _C.instance_norm_act_apply(
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
        torch.get_num_threads(),
    )
    return y


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


#: Shorter rows leave most of a vector empty. From this many channels on the channels-last kernels, with a copy to and
#: one from that layout, were 1.1 to 5 times as fast.
_SHORT_ROW, _ENOUGH_CHANNELS = 16, 16


def _depthwise_layouts(x: Tensor, multiplies: bool) -> tuple[Layout, Layout]:
    """As :func:`fastseg.backends.views.depthwise_layouts`, with images and volumes of short rows in channels-last.

    A single pixel lies in both layouts and stays as it is.
    """
    wanted, layout = depthwise_layouts(x, multiplies)
    short = layout == "rows" and not multiplies and x.shape[-1] < _SHORT_ROW and x.shape[1] >= _ENOUGH_CHANNELS
    short = short and x.shape[2:].numel() > 1
    return wanted, "channels_last" if short else layout


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
    wanted_layout, layout = _depthwise_layouts(x, weight.shape[0] != x.shape[1])
    x, weight = as_layout(x, layout), weight.contiguous()
    y = new_output(x, weight.shape[0], size, layout)
    mean = rstd = None
    if eps is not None:
        mean, rstd = statistics_like(y), statistics_like(y)
    _C.depthwise_conv_forward(
        depthwise_shape(x.shape, weight.shape, stride, padding, dilation, size),
        view(x),
        weight.data_ptr(),
        vector(bias),
        view(y),
        0 if mean is None else mean.data_ptr(),
        0 if rstd is None else rstd.data_ptr(),
        eps or 0.0,
        torch.get_num_threads(),
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
    wanted_layout, layout = _depthwise_layouts(x, weight.shape[0] != x.shape[1])
    x, grad, weight = as_layout(x, layout), as_layout(grad, layout), weight.contiguous()
    dx = new_output(x, x.shape[1], x.shape[2:], layout) if wanted[0] else None
    compute = torch.promote_types(x.dtype, torch.float32)
    dweight = torch.empty(weight.shape, dtype=compute) if wanted[1] else None
    dbias = torch.empty(weight.shape[:1], dtype=compute) if wanted[2] else None
    _C.depthwise_conv_backward(
        depthwise_shape(x.shape, weight.shape, stride, padding, dilation, grad.shape[2:]),
        view(grad),
        view(x) if wanted[1] else None,
        weight.data_ptr(),
        None,
        optional_view(dx),
        0 if dweight is None else dweight.data_ptr(),
        0 if dbias is None else dbias.data_ptr(),
        torch.get_num_threads(),
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
    wanted_layout, layout = _depthwise_layouts(x, channels != x.shape[1])
    x, weight = as_layout(x, layout), weight.contiguous()
    y = new_output(x, channels, size, layout)
    _C.depthwise_conv_backward(
        depthwise_shape(y.shape, weight.shape, stride, padding, dilation, x.shape[2:]),
        view(x),
        None,
        weight.data_ptr(),
        vector(bias),
        view(y),
        0,
        0,
        torch.get_num_threads(),
    )
    return y.contiguous(memory_format=memory_format(wanted_layout, len(size)))


def pointwise_conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
    """A 1x1 convolution: weight (outputs, inputs, 1, ...); residual of y's spatial sizes, or of half of them."""
    wanted_layout = layout_of(x) or "rows"
    layout = _pointwise_layout(wanted_layout, x, weight)
    x = as_layout(x, layout)
    y = new_output(x, weight.shape[0], x.shape[2:], layout)
    if residual is not None:
        residual = as_layout(residual, layout)
    pointwise_into(x, weight, weight.stride(0), weight.stride(1), bias, y, residual)
    return y.contiguous(memory_format=memory_format(wanted_layout, x.ndim - 2))


#: Images of no more pixels leave much of their last vector empty, and many channels of them lie in many pages.
_FEW_PIXELS, _MANY_PRODUCTS = 64, 1 << 18


def _pointwise_layout(wanted: Layout, x: Tensor, weight: Tensor) -> Layout:
    """Small images of many channels are faster in channels-last, with a copy to and one from that layout."""
    small = wanted == "rows" and x.shape[2:].numel() <= _FEW_PIXELS
    return "channels_last" if small and weight.shape[0] * weight.shape[1] >= _MANY_PRODUCTS else wanted


def pointwise_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """dx and (both or none) dweight and dbias, in the dtype that kernels compute in; empty where not wanted."""
    wanted_layout = layout_of(x) or "rows"
    layout = _pointwise_layout(wanted_layout, x, weight)
    x, grad = as_layout(x, layout), as_layout(grad, layout)
    outputs, inputs = weight.shape[:2]
    compute = torch.promote_types(x.dtype, torch.float32)
    parameters = wanted[1] or wanted[2]
    dweight, dbias = (
        torch.empty(shape if parameters else (0,), dtype=compute) for shape in (weight.shape, weight.shape[:1])
    )
    dx = x.new_empty((0,))
    if wanted[0]:
        dx = new_output(grad, inputs, grad.shape[2:], layout)
        pointwise_into(grad, weight, weight.stride(1), weight.stride(0), None, dx)
        dx = dx.contiguous(memory_format=memory_format(wanted_layout, x.ndim - 2))
    if parameters:
        _C.pointwise_conv_gradient(
            x.shape[0],
            inputs,
            outputs,
            x.shape[2:].numel(),
            view(grad),
            view(x),
            dweight.data_ptr(),
            dbias.data_ptr(),
            torch.get_num_threads(),
        )
    return dx, dweight, dbias


def separable_conv_forward(
    x: Tensor,
    weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """A depthwise, then a 1x1 convolution; in one kernel where that is measured to be faster."""
    wanted_layout, layout = _depthwise_layouts(x, weight.shape[0] != x.shape[1])
    if (wanted_layout, layout) == ("rows", "channels_last"):  # copied once for both
        pixels = as_layout(x, layout)
        return separable_conv_forward(
            pixels, weight, pointwise_weight, bias, pointwise_bias, stride, padding, dilation, size
        ).contiguous()
    if wanted_layout == layout and one_kernel_pays(x, size):
        x = as_layout(x, layout)
        y = new_output(x, pointwise_weight.shape[0], size, layout)
        if separable_in_one_kernel(x, weight, pointwise_weight, bias, pointwise_bias, stride, padding, dilation, y):
            return y
    between, _, _ = depthwise_conv_forward(x, weight, bias, stride, padding, dilation, size, None)
    return pointwise_conv_forward(between, pointwise_weight, pointwise_bias)


#: Few channels of large images: of others the tensor between the two convolutions lies in a cache, or the product
#: outweighs it, and two kernels were up to 1.2 times as fast.
_ONE_KERNEL_BYTES, _ONE_KERNEL_CHANNELS = 8 << 20, 32


def one_kernel_pays(x: Tensor, size: Sequence[int]) -> bool:
    """Whether one kernel for a depthwise convolution of x to ``size`` and a 1x1 one is faster, where it takes them."""
    between_bytes = x.shape[0] * x.shape[1] * math.prod(size) * x.element_size()
    return x.shape[1] <= _ONE_KERNEL_CHANNELS and between_bytes >= _ONE_KERNEL_BYTES


def separable_in_one_kernel(
    x: Tensor,
    weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    y: Tensor,
) -> bool:
    """Writes ``y``, in x's layout, and says True; or says False where the kernel does not take them."""
    shape = depthwise_shape(x.shape, weight.shape, stride, padding, dilation, y.shape[2:])
    outputs = pointwise_weight.shape[0]
    if not _C.separable_conv_fits(shape, view(x), outputs, view(y)):
        return False
    weight, pointwise_weight = weight.contiguous(), pointwise_weight.contiguous()
    _C.separable_conv_forward(
        shape,
        view(x),
        weight.data_ptr(),
        vector(bias),
        outputs,
        pointwise_weight.data_ptr(),
        vector(pointwise_bias),
        view(y),
        torch.get_num_threads(),
    )
    return True


def pointwise_into(
    x: Tensor,
    weight: Tensor,
    output_stride: int,
    input_stride: int,
    bias: Tensor | None,
    y: Tensor,
    residual: Tensor | None = None,
) -> None:
    """A 1x1 convolution to where ``y`` lies; the strides are those of ``weight`` along outputs and inputs."""
    height, width = y.shape[-2:]
    scale = 1 if residual is None else width // residual.shape[-1]
    _C.pointwise_conv(
        x.shape[0],
        x.shape[1],
        y.shape[1],
        x.shape[2:].numel(),
        view(x),
        weight.data_ptr(),
        output_stride,
        input_stride,
        vector(bias),
        view(y),
        optional_view(residual),
        height,
        width,
        scale if y.ndim == 5 else 1,
        scale,
        torch.get_num_threads(),
    )
