"""Launches the CPU kernels of the context family. No autograd and no checks here: see fastseg/ops/context.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.backends import cpu, memory
from fastseg.backends import cpu_dense_conv as dense
from fastseg.backends.memory import new_output
from fastseg.backends.separable_branches import Gradients, separable_backward
from fastseg.backends.views import as_layout, convolved_layout, layout_of, weight_layout
from fastseg.reference.context import padding_of


def aspp_conv_forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], dilations: Sequence[Sequence[int]]
) -> Tensor:
    """Dense convolutions of x with "same" padding, their outputs side by side."""
    layout = convolved_layout(x)
    x, weights = as_layout(x, layout), [dense.readable(weight) for weight in weights]
    y = new_output(x, sum(weight.shape[0] for weight in weights), x.shape[2:], layout)
    paddings = map(padding_of, weights, dilations)
    dense.launch_forward(x, tuple(map(dense.branch, weights, biases, dilations, paddings)), y)
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
    x, grad, weights = as_layout(x, layout), as_layout(grad, layout), [dense.readable(weight) for weight in weights]
    compute = torch.promote_types(x.dtype, torch.float32)
    dweights = [memory.new_empty(weight.shape, compute, weight_layout(weight)) for weight in weights if wanted[1]]
    dbiases = [torch.empty(weight.shape[:1], dtype=compute) for weight in weights if wanted[2]]
    branches = tuple(
        dense.branch(
            weight,
            None,
            dilation,
            padding_of(weight, dilation),
            dweights[i] if wanted[1] else None,
            dbiases[i] if wanted[2] else None,
        )
        for i, (weight, dilation) in enumerate(zip(weights, dilations, strict=True))
    )
    return dense.backward(x, branches, grad, wanted[0], wanted[1]), dweights, dbiases


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
