"""Launches the CPU kernels of dense convolutions: see fastseg/ops/dense_conv.py, and context.h for the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends import memory
from fastseg.backends.memory import new_empty, new_output
from fastseg.backends.views import as_layout, convolved_layout, optional_view, three_axes, vector, view, weight_layout

#: From this size of the finer image on the gradients of a dense convolution are computed one after the other, to save
#: memory.
APART_BYTES = 8 << 20
#: Strides of convolutions that have none.
_ONE = (1, 1, 1)


def dense_conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
    transposed: bool,
) -> Tensor:
    """A convolution to images of ``size``, or, with weight (inputs, outputs, *kernel), a transposed one."""
    layout = convolved_layout(x)
    x, weight = as_layout(x, layout), readable(weight)
    y = new_output(x, weight.shape[1 if transposed else 0], size, layout)
    strides = three_axes(stride)
    if transposed:
        _launch_backward(y, None, (branch(weight, None, dilation, padding),), x, y, strides, bias)
    else:
        launch_forward(x, (branch(weight, bias, dilation, padding),), y, strides)
    return y


def dense_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The wanted ones of dx, dweight and dbias; those of parameters in the dtype that kernels compute in."""
    layout = convolved_layout(x)
    x, grad, weight = as_layout(x, layout), as_layout(grad, layout), readable(weight)
    compute, strides = torch.promote_types(x.dtype, torch.float32), three_axes(stride)
    dweight = new_empty(weight.shape, compute, weight_layout(weight)) if wanted[1] else None
    dbias = new_empty(weight.shape[1:2] if transposed else weight.shape[:1], compute) if wanted[2] else None
    if not transposed:
        parameters = branch(weight, None, dilation, padding, dweight, dbias)
        return backward(x, (parameters,), grad, wanted[0], dweight is not None, strides), dweight, dbias
    # x is the gradient of a convolution of `grad`: that convolution gives dx, its weight's gradient is this one's.
    if dweight is not None:
        _launch_backward(grad, grad, (branch(weight, None, dilation, padding, dweight),), x, None, strides)
    if dbias is not None:
        _launch_backward(grad, None, (_sum(weight, dbias),), grad, None)
    dx = None
    if wanted[0]:
        dx = new_output(x, x.shape[1], x.shape[2:], layout)
        launch_forward(grad, (branch(weight, None, dilation, padding),), dx, strides)
    return dx, dweight, dbias


def readable(weight: Tensor) -> Tensor:
    """``weight`` itself where outputs follow each other, and the taps of an input or the inputs of a tap."""
    return weight if weight_layout(weight) == "channels_last" else weight.contiguous()


def branch(
    weight: Tensor,
    bias: Tensor | None,
    dilation: Sequence[int],
    padding: Sequence[int],
    dweight: Tensor | None = None,
    dbias: Tensor | None = None,
) -> tuple[int, ...]:
    """ContextBranch of csrc/include/fastseg/context.h; ``padding`` stands before the image."""
    outputs, inputs = weight.shape[:2]
    strides = (weight.shape[2:].numel(), 1) if weight.is_contiguous() else (1, inputs)
    return (
        outputs,
        *three_axes(weight.shape[2:]),
        *three_axes(dilation),
        *(0,) * (3 - len(padding)),
        *padding,
        weight.data_ptr(),
        *strides,
        *(vector(bias) or (0, 0, 0)),
        0 if dweight is None else dweight.data_ptr(),
        0 if dbias is None else dbias.data_ptr(),
    )


def launch_forward(
    x: Tensor, branches: tuple[tuple[int, ...], ...], y: Tensor, strides: tuple[int, ...] = _ONE
) -> None:
    """Writes ``y``, the branches' outputs side by side."""
    _launch(_C.context_conv_forward, _shape(x, y, strides), branches, view(x), view(y), None, None, backward=False)


def backward(
    x: Tensor,
    branches: tuple[tuple[int, ...], ...],
    grad: Tensor,
    wanted: bool,
    of_weights: bool,
    strides: tuple[int, ...] = _ONE,
) -> Tensor | None:
    """Writes what gradients the branches ask for, some of weights or none, and returns dx where it is wanted."""
    kept: Tensor | None = x if of_weights else None
    layout = convolved_layout(x)
    # The weights' gradient needs a copy of x while it runs. Where that is large, dx comes after it, in the same memory.
    as_it_lies = layout == "channels_last" and x.dtype in (torch.float32, torch.float64)
    if wanted and of_weights and as_it_lies and x.numel() * x.element_size() >= APART_BYTES:
        _launch_backward(x, x, branches, grad, None, strides)
        branches, kept = tuple((*numbers[:-2], 0, 0) for numbers in branches), None
    dx = new_output(x, x.shape[1], x.shape[2:], layout) if wanted else None
    _launch_backward(x, kept, branches, grad, dx, strides)
    return dx


def _sum(weight: Tensor, dbias: Tensor) -> tuple[int, ...]:
    """A branch of one tap, of which nothing but the gradient of its bias is wanted: the sum over pixels."""
    return (weight.shape[1], *(1, 1, 1), *(1, 1, 1), *(0, 0, 0), 0, 1, 1, 0, 0, 0, 0, dbias.data_ptr())


def _launch_backward(
    shaped: Tensor,
    x: Tensor | None,
    branches: tuple[tuple[int, ...], ...],
    grad: Tensor,
    dx: Tensor | None,
    strides: tuple[int, ...] = _ONE,
    dx_bias: Tensor | None = None,
) -> None:
    """``shaped``: x, also where the kernel does not read it."""
    arguments = (branches, optional_view(x), view(grad), optional_view(dx), vector(dx_bias))
    _launch(_C.context_conv_backward, _shape(shaped, grad, strides), *arguments, backward=True)


def _launch(kernel: Callable[..., None], *arguments: Any, backward: bool) -> None:
    threads = torch.get_num_threads()
    needed: int = _C.context_conv_workspace(*(*arguments, backward, threads))
    # In numbers of four bytes, and a line of 64 more, for the start of torch's own memory is not always one's.
    workspace = memory.empty(needed // 4 + 16)
    kernel(*arguments, -(-workspace.data_ptr() // 64) * 64, threads)


def _shape(x: Tensor, y: Tensor, strides: tuple[int, ...]) -> tuple[int, ...]:
    """ContextShape of csrc/include/fastseg/context.h."""
    return (*x.shape[:2], *three_axes(x.shape[2:]), *three_axes(y.shape[2:]), *strides)
