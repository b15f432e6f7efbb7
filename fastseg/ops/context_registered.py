"""The torch ops of the context family: schemas, fakes, and which launcher runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.backends import select
from fastseg.backends.views import convolved_layout, layout_of, memory_format, new_output, weight_layout
from fastseg.ops.registry import register

Gradients = tuple[Tensor, list[Tensor], list[Tensor]]
SeparableGradients = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


def _empty_output(x: Tensor, channels: int) -> Tensor:
    return new_output(x, channels, x.shape[2:], layout_of(x) or "rows")


def _convolved(x: Tensor, channels: int) -> Tensor:
    return new_output(x, channels, x.shape[2:], convolved_layout(x))


def _rates(dilations: Sequence[int], rank: int) -> list[Sequence[int]]:
    """``rank - 2`` dilations for each branch."""
    return [dilations[i : i + rank - 2] for i in range(0, len(dilations), rank - 2)]


def _is_empty(x: Tensor, weights: Sequence[Tensor]) -> bool:
    return x.numel() == 0 or all(weight.numel() == 0 for weight in weights)


def _only_biases(y: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """``y`` of images or filters without elements."""
    y.zero_()
    first = 0
    for weight, bias in zip(weights, biases, strict=True):
        if bias is not None:
            y[:, first : first + len(weight)] = bias.view(1, -1, *[1] * (y.ndim - 2))
        first += len(weight)
    return y


def _parameters(x: Tensor, like: Sequence[Tensor], wanted: bool, ranks: int | None = None) -> list[Tensor]:
    """Gradients in the dtype that kernels compute in; none where they are not wanted."""
    compute = torch.promote_types(x.dtype, torch.float32)
    return [x.new_empty(t.shape[:ranks], dtype=compute) for t in like] if wanted else []


def _weights(x: Tensor, weights: Sequence[Tensor], wanted: bool) -> list[Tensor]:
    """Gradients of dense weights, which lie as these do."""
    if not wanted:
        return []
    compute = torch.promote_types(x.dtype, torch.float32)
    formats = [memory_format(weight_layout(weight), weight.ndim - 2) for weight in weights]
    return [
        torch.empty(weight.shape, dtype=compute, device=x.device, memory_format=layout)
        for weight, layout in zip(weights, formats, strict=True)
    ]


def _bias_sums(grad: Tensor, outputs: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    sums = grad.sum((0, *range(2, grad.ndim)), dtype=dtype).split(list(outputs))
    return [part.clone() for part in sums]


def _forward(x: Tensor, weights: list[Tensor], biases: list[Tensor | None], dilations: list[int]) -> Tensor:
    if _is_empty(x, weights):
        return _only_biases(_forward_fake(x, weights, biases, dilations), weights, biases)
    launch = select.kernel(f"aspp_conv{x.ndim - 2}d", x).aspp_conv_forward
    return launch(x, weights, biases, _rates(dilations, x.ndim))


def _forward_fake(x: Tensor, weights: list[Tensor], biases: list[Tensor | None], dilations: list[int]) -> Tensor:
    return _convolved(x, sum(weight.shape[0] for weight in weights))


def _backward(grad: Tensor, x: Tensor, weights: list[Tensor], dilations: list[int], wanted: list[bool]) -> Gradients:
    if _is_empty(x, weights):
        dx, dweights, dbiases = _backward_fake(grad, x, weights, dilations, wanted)
        if wanted[2]:
            dbiases = _bias_sums(grad, [weight.shape[0] for weight in weights], dbiases[0].dtype)
        return dx.zero_(), [t.zero_() for t in dweights], dbiases
    launch = select.kernel(f"aspp_conv{x.ndim - 2}d", x).aspp_conv_backward
    dx, dweights, dbiases = launch(grad, x, weights, _rates(dilations, x.ndim), wanted)
    return x.new_empty((0,)) if dx is None else dx, dweights, dbiases


def _backward_fake(
    grad: Tensor, x: Tensor, weights: list[Tensor], dilations: list[int], wanted: list[bool]
) -> Gradients:
    dx = _convolved(x, x.shape[1]) if wanted[0] else x.new_empty((0,))
    return dx, _weights(x, weights, wanted[1]), _parameters(x, weights, wanted[2], 1)


def _separable(
    x: Tensor,
    depthwise: list[Tensor | None],
    pointwise: list[Tensor],
    between: list[Tensor | None],
    after: list[Tensor | None],
    dilations: list[int],
) -> Tensor:
    if x.numel() == 0:
        y = _separable_fake(x, depthwise, pointwise, between, after, dilations)
        return _only_biases(y, pointwise, after)
    launch = select.kernel(f"separable_aspp_conv{x.ndim - 2}d", x).separable_aspp_conv_forward
    return launch(x, depthwise, pointwise, between, after, _rates(dilations, x.ndim))


def _separable_fake(
    x: Tensor,
    depthwise: list[Tensor | None],
    pointwise: list[Tensor],
    between: list[Tensor | None],
    after: list[Tensor | None],
    dilations: list[int],
) -> Tensor:
    return _empty_output(x, sum(weight.shape[0] for weight in pointwise))


def _separable_backward(
    grad: Tensor,
    x: Tensor,
    depthwise: list[Tensor | None],
    pointwise: list[Tensor],
    between: list[Tensor | None],
    dilations: list[int],
    wanted: list[bool],
) -> SeparableGradients:
    if x.numel() == 0:
        dx, *parameters = _separable_backward_fake(grad, x, depthwise, pointwise, between, dilations, wanted)
        dw, dp, db, da = ([t.zero_() for t in kind] for kind in parameters)
        if wanted[4]:
            da = _bias_sums(grad, [weight.shape[0] for weight in pointwise], da[0].dtype)
        return dx.zero_(), dw, dp, db, da
    launch = select.kernel(f"separable_aspp_conv{x.ndim - 2}d", x).separable_aspp_conv_backward
    dx, dw, dp, db, da = launch(grad, x, depthwise, pointwise, between, _rates(dilations, x.ndim), wanted)
    return x.new_empty((0,)) if dx is None else dx, dw, dp, db, da


def _separable_backward_fake(
    grad: Tensor,
    x: Tensor,
    depthwise: list[Tensor | None],
    pointwise: list[Tensor],
    between: list[Tensor | None],
    dilations: list[int],
    wanted: list[bool],
) -> SeparableGradients:
    filters = [x.new_empty((0,)) if weight is None else weight for weight in depthwise]
    return (
        _empty_output(x, x.shape[1]) if wanted[0] else x.new_empty((0,)),
        _parameters(x, filters, wanted[1]),
        _parameters(x, pointwise, wanted[2]),
        _parameters(x, filters, wanted[3], 1),
        _parameters(x, pointwise, wanted[4], 1),
    )


# Dilations stand one after the other, one for each axis of each branch. Gradients that are not wanted are empty, or
# lists without elements; so is that of a depthwise weight that is None. Those of parameters have the dtype that kernels
# compute in.
forward_op = register(
    "aspp_conv(Tensor x, Tensor[] weights, Tensor?[] biases, int[] dilations) -> Tensor", _forward, _forward_fake
)
backward_op = register(
    "aspp_conv_backward(Tensor grad, Tensor x, Tensor[] weights, int[] dilations, bool[] wanted) "
    "-> (Tensor dx, Tensor[] dweights, Tensor[] dbiases)",
    _backward,
    _backward_fake,
)
separable_op = register(
    "separable_aspp_conv(Tensor x, Tensor?[] depthwise_weights, Tensor[] pointwise_weights, "
    "Tensor?[] depthwise_biases, Tensor?[] pointwise_biases, int[] dilations) -> Tensor",
    _separable,
    _separable_fake,
)
separable_backward_op = register(
    "separable_aspp_conv_backward(Tensor grad, Tensor x, Tensor?[] depthwise_weights, Tensor[] pointwise_weights, "
    "Tensor?[] depthwise_biases, int[] dilations, bool[] wanted) -> (Tensor dx, Tensor[] ddepthwise_weights, "
    "Tensor[] dpointwise_weights, Tensor[] ddepthwise_biases, Tensor[] dpointwise_biases)",
    _separable_backward,
    _separable_backward_fake,
)
