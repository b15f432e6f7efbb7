"""Launches the CPU kernels of the up-convolution. No autograd and no checks here: see fastseg/ops/up_conv.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.memory import new_empty, new_output
from fastseg.backends.views import as_layout, convolved_layout, memory_format, three_axes, vector, view, weight_layout

#: Smaller gradients in rows are copied to channels-last first: the weights' gradient reads them more than once.
#: Larger ones torch has in fresh memory each time.
COPIED_BYTES = 32 << 20


def up_conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A transposed convolution with strides as large as its kernel: weight (inputs, outputs, *kernel)."""
    layout = convolved_layout(x)
    x, weight = as_layout(x, layout), _dense(weight)
    size = [n * k for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)]
    y = new_output(x, weight.shape[1], size, layout)
    bias = None if bias is None else bias.repeat(weight.shape[2:].numel())
    _C.up_conv(_shape(x, weight), view(x), view(y), weight.data_ptr(), vector(bias), torch.get_num_threads())
    return y


def up_conv_backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """dx and (both or none) dweight and dbias, in the dtype that kernels compute in; empty where not wanted."""
    layout = convolved_layout(x)
    x = as_layout(x, layout)
    parameters = wanted[1] or wanted[2]
    copied = parameters and grad.numel() * grad.element_size() < COPIED_BYTES
    grad = as_layout(grad, "channels_last" if copied else layout)
    compute = torch.promote_types(x.dtype, torch.float32)
    shape, threads = _shape(x, weight), torch.get_num_threads()
    dx, dweight, dbias = x.new_empty((0,)), x.new_empty((0,), dtype=compute), x.new_empty((0,), dtype=compute)
    if wanted[0]:
        dx, dense = new_output(x, x.shape[1], x.shape[2:], layout), _dense(weight)
        _C.up_conv_gradient(shape, view(dx), view(grad), dense.data_ptr(), None, threads)
    if parameters:
        dweight = new_empty(weight.shape, compute, "channels_last")
        sums = new_empty((weight.shape[2:].numel(), weight.shape[1]), compute)
        _C.up_conv_parameter_gradient(shape, view(x), view(grad), dweight.data_ptr(), sums.data_ptr(), threads)
        dweight = dweight.contiguous(memory_format=memory_format(weight_layout(weight), weight.ndim - 2))
        dbias = sums.sum(0)
    return dx, dweight, dbias


def _dense(weight: Tensor) -> Tensor:
    """The outputs of a tap beside each other, as kernels read them."""
    return weight.contiguous(memory_format=memory_format("channels_last", weight.ndim - 2))


def _shape(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    """UpConvShape of csrc/include/fastseg/up_conv.h."""
    return (len(x), *weight.shape[:2], *three_axes(x.shape[2:]), *three_axes(weight.shape[2:]))
