"""Launches the CPU kernels of the context family. No autograd and no checks here: see fastseg/ops/context.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends import cpu, memory
from fastseg.backends.memory import new_output
from fastseg.backends.separable_branches import Gradients, separable_backward
from fastseg.backends.views import (
    as_layout,
    convolved_layout,
    layout_of,
    optional_view,
    three_axes,
    vector,
    view,
    weight_layout,
)
from fastseg.reference.context import padding_of

#: From this size of x on the gradients of a dense convolution are computed one after the other, to save memory.
APART_BYTES = 8 << 20


def aspp_conv_forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], dilations: Sequence[Sequence[int]]
) -> Tensor:
    """Dense convolutions of x with "same" padding, their outputs side by side."""
    layout = convolved_layout(x)
    x, weights = as_layout(x, layout), [_readable(weight) for weight in weights]
    y = new_output(x, sum(weight.shape[0] for weight in weights), x.shape[2:], layout)
    branches = tuple(map(_branch, weights, biases, dilations))
    _launch(_C.aspp_conv_forward, x, x, branches, y, None, backward=False)
    return y


def aspp_conv_backward(
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    dilations: Sequence[Sequence[int]],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
    """The wanted ones of dx, all dweights and all dbiases; those of parameters in the dtype that kernels compute in."""
    layout = convolved_layout(x)
    x, grad, weights = as_layout(x, layout), as_layout(grad, layout), [_readable(weight) for weight in weights]
    compute = torch.promote_types(x.dtype, torch.float32)
    dweights = [memory.new_empty(weight.shape, compute, weight_layout(weight)) for weight in weights if wanted[1]]
    dbiases = [torch.empty(weight.shape[:1], dtype=compute) for weight in weights if wanted[2]]
    branches = tuple(
        _branch(
            weight,
            None,
            dilation,
            dweights[i].data_ptr() if wanted[1] else 0,
            dbiases[i].data_ptr() if wanted[2] else 0,
        )
        for i, (weight, dilation) in enumerate(zip(weights, dilations, strict=True))
    )
    kept: Tensor | None = x if wanted[1] else None
    # The weights' gradient needs a copy of x while it runs. Where that is large, dx comes after it, in the same memory.
    as_it_lies = layout == "channels_last" and x.dtype == compute
    if wanted[0] and wanted[1] and as_it_lies and x.numel() * x.element_size() >= APART_BYTES:
        _launch(_C.aspp_conv_backward, x, kept, branches, grad, None, backward=True)
        branches, kept = tuple(map(_branch, weights, [None] * len(weights), dilations)), None
    dx = new_output(x, x.shape[1], x.shape[2:], layout) if wanted[0] else None
    _launch(_C.aspp_conv_backward, x, kept, branches, grad, dx, backward=True)
    return dx, dweights, dbiases


def separable_aspp_conv_forward(
    x: Tensor,
    depthwise: Sequence[Tensor | None],
    pointwise: Sequence[Tensor],
    between: Sequence[Tensor | None],
    after: Sequence[Tensor | None],
    dilations: Sequence[Sequence[int]],
) -> Tensor:
    """Depthwise convolutions of x with "same" padding (x itself where one is None), each before a 1x1 convolution."""
    layout = layout_of(x) or "rows"
    x = as_layout(x, layout)
    y = new_output(x, sum(weight.shape[0] for weight in pointwise), x.shape[2:], layout)
    first = 0
    for filters, weight, bias, last_bias, dilation in zip(depthwise, pointwise, between, after, dilations, strict=True):
        part = y.narrow(1, first, weight.shape[0])
        first += weight.shape[0]
        if weight.shape[0]:
            _separable_branch(x, filters, weight, bias, last_bias, dilation, part)
    return y


def separable_aspp_conv_backward(
    grad: Tensor,
    x: Tensor,
    depthwise: Sequence[Tensor | None],
    pointwise: Sequence[Tensor],
    between: Sequence[Tensor | None],
    dilations: Sequence[Sequence[int]],
    wanted: Sequence[bool],
) -> Gradients:
    """:func:`~fastseg.backends.separable_branches.separable_backward` with the CPU's kernels."""
    return separable_backward(
        grad, x, depthwise, pointwise, between, dilations, wanted,
        _middle, cpu.pointwise_conv_backward, cpu.depthwise_conv_backward,
    )  # fmt: skip


def _middle(x: Tensor, filters: Tensor | None, bias: Tensor | None, dilation: Sequence[int]) -> Tensor:
    if filters is None:
        return x
    one, padding = [1] * (x.ndim - 2), padding_of(filters, dilation)
    return cpu.depthwise_conv_forward(x, filters, bias, one, padding, dilation, x.shape[2:], None)[0]


def _separable_branch(
    x: Tensor,
    filters: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    last_bias: Tensor | None,
    dilation: Sequence[int],
    y: Tensor,
) -> None:
    """One branch to its part ``y`` of the output; in one kernel where that is measured to be faster."""
    if filters is None:
        cpu.pointwise_into(x, weight, weight.stride(0), weight.stride(1), last_bias, y)
        return
    one, padding = [1] * (x.ndim - 2), padding_of(filters, dilation)
    if cpu.one_kernel_pays(x, y.shape[2:]) and cpu.separable_in_one_kernel(
        x, filters, weight, bias, last_bias, one, padding, dilation, y
    ):
        return
    middle = _middle(x, filters, bias, dilation)
    cpu.pointwise_into(middle, weight, weight.stride(0), weight.stride(1), last_bias, y)


def _readable(weight: Tensor) -> Tensor:
    """``weight`` itself where outputs follow each other, and the taps of an input or the inputs of a tap."""
    return weight if weight_layout(weight) == "channels_last" else weight.contiguous()


def _branch(
    weight: Tensor, bias: Tensor | None, dilation: Sequence[int], dweight: int = 0, dbias: int = 0
) -> tuple[int, ...]:
    """AsppBranch of csrc/include/fastseg/context.h."""
    outputs, inputs = weight.shape[:2]
    strides = (weight.shape[2:].numel(), 1) if weight.is_contiguous() else (1, inputs)
    return (
        outputs,
        *three_axes(weight.shape[2:]),
        *three_axes(dilation),
        weight.data_ptr(),
        *strides,
        *(vector(bias) or (0, 0, 0)),
        dweight,
        dbias,
    )


def _launch(
    kernel: Callable[..., None],
    shaped: Tensor,
    x: Tensor | None,
    branches: tuple[tuple[int, ...], ...],
    y: Tensor,
    dx: Tensor | None,
    *,
    backward: bool,
) -> None:
    """``shaped``: x, also where the kernel does not read it."""
    size = three_axes(shaped.shape[2:])
    arguments: tuple[Any, ...] = (*shaped.shape[:2], *size, branches, optional_view(x), view(y), optional_view(dx))
    threads = torch.get_num_threads()
    needed: int = _C.aspp_conv_workspace(*(*arguments, backward, threads))
    # In numbers of four bytes, and a line of 64 more, for the start of torch's own memory is not always one's.
    workspace = memory.empty(needed // 4 + 16)
    kernel(*arguments, -(-workspace.data_ptr() // 64) * 64, threads)
