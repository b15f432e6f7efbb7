"""Backward of separable ASPP, branch by branch: what its backends do in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastseg.backends.views import as_layout, layout_of
from fastseg.reference.context import padding_of

Gradients = tuple[Tensor | None, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
Wanted = Sequence[bool]


def separable_backward(
    grad: Tensor,
    x: Tensor,
    depthwise: Sequence[Tensor | None],
    pointwise: Sequence[Tensor],
    between: Sequence[Tensor | None],
    dilations: Sequence[Sequence[int]],
    wanted: Wanted,
    middle: Callable[[Tensor, Tensor | None, Tensor | None, Sequence[int]], Tensor],
    pointwise_backward: Callable[[Tensor, Tensor, Tensor, Wanted], Sequence[Tensor | None]],
    depthwise_backward: Callable[..., Sequence[Tensor | None]],
) -> Gradients:
    """The wanted ones of dx and the gradients of each kind of parameter, in the dtype that kernels compute in.

    What lies between the two convolutions is computed again, one branch at a time: it stays in the cache.

    Args:
        middle: (x, filters or None, bias, dilation) to what lies between.
        pointwise_backward: (grad, middle, weight, wanted) to the gradients of middle, weight and bias.
        depthwise_backward: that of the backend.
    """
    layout = layout_of(x) or "rows"
    x, grad = as_layout(x, layout), as_layout(grad, layout)
    compute = torch.promote_types(x.dtype, torch.float32)
    one = [1] * (x.ndim - 2)
    dx: Tensor | None = None
    gradients: tuple[list[Tensor], ...] = ([], [], [], [])
    first = 0
    for filters, weight, bias, dilation in zip(depthwise, pointwise, between, dilations, strict=True):
        part = grad.narrow(1, first, weight.shape[0])
        first += weight.shape[0]
        dmiddle, dweight, dbias = pointwise_backward(
            part,
            middle(x, filters, bias, dilation),
            weight,
            [wanted[0] or wanted[1] or wanted[3], wanted[2], wanted[4]],
        )
        dbranch = dmiddle if wanted[0] else None
        dfilters: Tensor | None = x.new_empty((0,), dtype=compute)
        dfilter_bias: Tensor | None = x.new_empty((0,), dtype=compute)
        if filters is not None:
            dbranch, dfilters, dfilter_bias = depthwise_backward(
                dmiddle, x, filters, one, padding_of(filters, dilation), dilation, [wanted[0], wanted[1], wanted[3]]
            )
        if dbranch is not None:
            dx = as_layout(dbranch, layout) if dx is None else dx.add_(dbranch)
        for kind, gradient in zip(gradients, (dfilters, dweight, dfilter_bias, dbias), strict=True):
            if gradient is not None:
                kind.append(gradient.to(compute))
    kinds = [kind if want else [] for kind, want in zip(gradients, wanted[1:], strict=True)]
    return dx, kinds[0], kinds[1], kinds[2], kinds[3]
