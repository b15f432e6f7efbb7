"""Separable ASPP in Triton: the depthwise kernels of depthwise.py, and the vendor's matrix products.

A product writes its part of the output as it lies there, so that nothing is concatenated. Bytes to move, u is one pass
over x and O / C the outputs of a branch for each channel: for each branch 2u for the depthwise convolution, 1u + O/C u
for the product; eager moves 2 O/C u more, to concatenate. What lies between the two is written and read: a matrix
product of all channels wants tiles that no halo of a depthwise convolution fits into. None of it has been timed on a
card.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.backends.separable_branches import Gradients, separable_backward
from fastseg.backends.triton.depthwise import depthwise_conv_backward, depthwise_conv_forward
from fastseg.backends.views import as_layout, layout_of, new_output
from fastseg.reference.context import padding_of


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
        middle = _middle(x, filters, bias, dilation)
        matrix = weight.flatten(1)
        if layout == "rows":
            torch.bmm(matrix.expand(x.shape[0], *matrix.shape), middle.flatten(2), out=part.flatten(2))
        else:
            pixels = middle.movedim(1, -1).flatten(0, -2)
            torch.mm(pixels, matrix.t(), out=part.movedim(1, -1).flatten(0, -2))
        if last_bias is not None:
            part += last_bias.view(-1, *[1] * (x.ndim - 2))
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
    """:func:`~fastseg.backends.separable_branches.separable_backward` with Triton's and the vendor's kernels."""
    return separable_backward(
        grad, x, depthwise, pointwise, between, dilations, wanted, _middle, _product_backward, depthwise_conv_backward
    )


def _product_backward(
    grad: Tensor, middle: Tensor, weight: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    one, none = [1] * (middle.ndim - 2), [0] * (middle.ndim - 2)
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        grad, middle, weight, [weight.shape[0]], one, none, one, False, none, 1, list(wanted)
    )
    return gradients


def _middle(x: Tensor, filters: Tensor | None, bias: Tensor | None, dilation: Sequence[int]) -> Tensor:
    if filters is None:
        return x
    one = [1] * (x.ndim - 2)
    return depthwise_conv_forward(
        x, filters, bias, one, padding_of(filters, dilation), dilation, list(x.shape[2:]), None
    )[0]
