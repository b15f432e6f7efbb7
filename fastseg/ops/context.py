"""Dilated convolutions of one image side by side: atrous spatial pyramid pooling (ASPP), dense and separable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops import checks
from fastseg.ops.context_registered import backward_op, forward_op, separable_backward_op, separable_op
from fastseg.ops.geometry import Axes, per_axis
from fastseg.ops.once_differentiable import once_differentiable

#: ContextBranches::most of csrc/include/fastseg/context.h.
MOST_BRANCHES = 32

Biases = Sequence[Tensor | None] | None


def aspp_conv2d(x: Tensor, weights: Sequence[Tensor], *, dilations: Sequence[Axes], biases: Biases = None) -> Tensor:
    r"""Convolutions of x with a dilation each, their outputs side by side (Chen et al. 2017, arXiv:1706.05587).

    .. math:: y_{n, first_b + o, p} = bias_{b,o} + \sum_{c,k} weight_{b,o,c,k} x_{n, c, p + (k - middle) dilation_b}

    for every branch b, with zeros outside of x: ``torch.cat([conv2d(x, w, b, padding="same", dilation=d), ...], 1)``
    without the copies.

    Args:
        x: (N, C, H, W); float32, float64, bfloat16 or float16, any strides (contiguous and channels-last are read as
            they lie).
        weights: of 1 to 32 branches, each (O, C, kH, kW) with an O and a kernel of its own: 1x1 and 3x3 mix.
        dilations: of the branches, each one number or one for each axis.
        biases: of the branches, each (O,) or None; or None.

    Returns:
        (N, sum of O, H, W) of x's dtype and memory format. 16-bit tensors are added up in float32.

    Raises:
        ValueError: wrong rank, shape or device, or lists of different lengths.
        TypeError: an integer or complex tensor, or dtypes that differ; float32 parameters beside a 16-bit x are rounded
            to its dtype, and under autocast all are cast, as torch's are.

    Taps that fall on padding are not computed. For backward it keeps x and the weights. Not twice differentiable: use
    ``fastseg.backend("reference")`` for that.
    """
    return _aspp_conv("aspp_conv2d", 4, x, weights, dilations, biases)


def aspp_conv3d(x: Tensor, weights: Sequence[Tensor], *, dilations: Sequence[Axes], biases: Biases = None) -> Tensor:
    """:func:`aspp_conv2d` for volumes: x (N, C, D, H, W), weights (O, C, kD, kH, kW)."""
    return _aspp_conv("aspp_conv3d", 5, x, weights, dilations, biases)


def separable_aspp_conv2d(
    x: Tensor,
    depthwise_weights: Sequence[Tensor | None],
    pointwise_weights: Sequence[Tensor],
    *,
    dilations: Sequence[Axes],
    depthwise_biases: Biases = None,
    pointwise_biases: Biases = None,
) -> Tensor:
    """:func:`aspp_conv2d` of depthwise-separable branches (Chen et al. 2018, arXiv:1802.02611).

    Args:
        x: (N, C, H, W), as in :func:`aspp_conv2d`.
        depthwise_weights: of 1 to 32 branches, each (C * m, 1, kH, kW): a filter, or m of them, for every channel; or
            None, for a branch that is a 1x1 convolution alone.
        pointwise_weights: of the branches, each (O, C * m, 1, 1).
        dilations: of the depthwise convolutions, each one number or one for each axis.
        depthwise_biases: of the branches, each (C * m,) or None; or None.
        pointwise_biases: of the branches, each (O,) or None; or None.

    Returns:
        (N, sum of O, H, W) of x's dtype and memory format.

    Raises:
        ValueError, TypeError: as :func:`aspp_conv2d`.

    For backward it keeps x and the weights, and computes the depthwise convolutions again.
    """
    return _separable_aspp_conv(
        "separable_aspp_conv2d",
        4,
        x,
        depthwise_weights,
        pointwise_weights,
        dilations,
        depthwise_biases,
        pointwise_biases,
    )


def separable_aspp_conv3d(
    x: Tensor,
    depthwise_weights: Sequence[Tensor | None],
    pointwise_weights: Sequence[Tensor],
    *,
    dilations: Sequence[Axes],
    depthwise_biases: Biases = None,
    pointwise_biases: Biases = None,
) -> Tensor:
    """:func:`separable_aspp_conv2d` for volumes: depthwise weights (C * m, 1, kD, kH, kW)."""
    return _separable_aspp_conv(
        "separable_aspp_conv3d",
        5,
        x,
        depthwise_weights,
        pointwise_weights,
        dilations,
        depthwise_biases,
        pointwise_biases,
    )


def _aspp_conv(
    op: str, rank: int, x: Tensor, weights: Sequence[Tensor], dilations: Sequence[Axes], biases: Biases
) -> Tensor:
    checks.check_image(op, "x", x, rank)
    if not 1 <= len(weights) <= MOST_BRANCHES:
        raise ValueError(f"{op}: weights has {len(weights)} branches, expected 1 to {MOST_BRANCHES}")
    rates = _rates(op, rank, dilations, len(weights))
    x = _cast(x)
    weights = [_parameter(x, weight) for weight in weights]
    vectors = [_parameter(x, bias) for bias in _of_branches(op, "biases", biases, len(weights))]
    for i, (weight, bias) in enumerate(zip(weights, vectors, strict=True)):
        _check_dense_weight(op, f"weights[{i}]", weight, x)
        checks.check_vector(op, f"biases[{i}]", bias, weight.shape[0], x)
        checks.check_same_dtype(op, f"biases[{i}]", bias, x)
    if select.runs_reference(op, x):
        return reference.aspp_conv(x, weights, vectors, rates)
    flat = [d for rate in rates for d in rate]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *weights, *vectors)):
        y: Tensor = _AsppConv.apply(x, flat, len(weights), *weights, *vectors)
        return y
    return forward_op(x, weights, vectors, flat)


def _separable_aspp_conv(
    op: str,
    rank: int,
    x: Tensor,
    depthwise_weights: Sequence[Tensor | None],
    pointwise_weights: Sequence[Tensor],
    dilations: Sequence[Axes],
    depthwise_biases: Biases,
    pointwise_biases: Biases,
) -> Tensor:
    checks.check_image(op, "x", x, rank)
    count = len(depthwise_weights)
    if not 1 <= count <= MOST_BRANCHES:
        raise ValueError(f"{op}: depthwise_weights has {count} branches, expected 1 to {MOST_BRANCHES}")
    rates = _rates(op, rank, dilations, count)
    lists = (
        list(depthwise_weights),
        _of_branches(op, "pointwise_weights", pointwise_weights, count),
        _of_branches(op, "depthwise_biases", depthwise_biases, count),
        _of_branches(op, "pointwise_biases", pointwise_biases, count),
    )
    x = _cast(x)
    depthwise, pointwise, between, after = ([_parameter(x, t) for t in tensors] for tensors in lists)
    for i in range(count):
        channels = x.shape[1]
        if depthwise[i] is not None:
            checks.check_depthwise_weight(op, f"depthwise_weights[{i}]", depthwise[i], x)
            channels = depthwise[i].shape[0]
        elif between[i] is not None:
            raise ValueError(f"{op}: depthwise_biases[{i}] is a tensor, expected None, for there is no weight")
        if pointwise[i] is None or pointwise[i].shape[1:] != (channels, *[1] * (rank - 2)):
            shape = None if pointwise[i] is None else tuple(pointwise[i].shape)
            expected = ", ".join(map(str, ("O", channels, *[1] * (rank - 2))))
            raise ValueError(f"{op}: pointwise_weights[{i}] has shape {shape}, expected ({expected})")
        checks.check_device(op, f"pointwise_weights[{i}]", pointwise[i], x)
        checks.check_vector(op, f"depthwise_biases[{i}]", between[i], channels, x)
        checks.check_vector(op, f"pointwise_biases[{i}]", after[i], pointwise[i].shape[0], x)
        for name, tensors in zip(_SEPARABLE_NAMES, (depthwise, pointwise, between, after), strict=True):
            checks.check_same_dtype(op, f"{name}[{i}]", tensors[i], x)
    if select.runs_reference(op, x):
        return reference.separable_aspp_conv(x, depthwise, pointwise, between, after, rates)
    flat = [d for rate in rates for d in rate]
    parameters = (*depthwise, *pointwise, *between, *after)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
        y: Tensor = _SeparableAsppConv.apply(x, flat, count, *parameters)
        return y
    return separable_op(x, depthwise, pointwise, between, after, flat)


_SEPARABLE_NAMES = ("depthwise_weights", "pointwise_weights", "depthwise_biases", "pointwise_biases")


def _rates(op: str, rank: int, dilations: Sequence[Axes], count: int) -> list[list[int]]:
    if not isinstance(dilations, Sequence) or len(dilations) != count:
        raise ValueError(f"{op}: dilations is {dilations!r}, expected one for each of {count} branches")
    return [per_axis(op, f"dilations[{i}]", dilation, rank - 2, 1) for i, dilation in enumerate(dilations)]


def _of_branches(op: str, name: str, tensors: Sequence[Tensor | None] | None, count: int) -> list[Any]:
    if tensors is None:
        return [None] * count
    if len(tensors) != count:
        raise ValueError(f"{op}: {name} has {len(tensors)} entries, expected one for each of {count} branches")
    return list(tensors)


def _cast(x: Tensor) -> Tensor:
    """x in autocast's dtype where it is on, as torch's convolutions cast: float64 stays as it is."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def _parameter(x: Tensor, parameter: Any) -> Any:
    """A parameter beside x: float32 ones are rounded to a 16-bit x, and all are cast where autocast is on."""
    if parameter is None:
        return None
    parameter = _cast(parameter)
    return parameter.to(x.dtype) if x.dtype.itemsize == 2 and parameter.dtype == torch.float32 else parameter


def _check_dense_weight(op: str, name: str, weight: Tensor, x: Tensor) -> None:
    if weight.ndim != x.ndim or weight.shape[1] != x.shape[1] or 0 in weight.shape[2:]:
        kernel = ("kD", "kH", "kW")[-(x.ndim - 2) :]
        raise ValueError(
            f"{op}: {name} has shape {tuple(weight.shape)}, expected (O, {x.shape[1]}, {', '.join(kernel)})"
        )
    checks.check_device(op, name, weight, x)
    checks.check_same_dtype(op, name, weight, x)


class _AsppConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dilations: list[int], count: int, *parameters: Tensor | None) -> Tensor:
        weights, biases = parameters[:count], parameters[count:]
        ctx.save_for_backward(x, *weights)
        ctx.dilations, ctx.count = dilations, count
        return forward_op(x, weights, biases, dilations)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        count, needs = ctx.count, ctx.needs_input_grad
        wanted = [needs[0], any(needs[3 : 3 + count]), any(needs[3 + count :])]
        dx, dweights, dbiases = backward_op(grad, x, weights, ctx.dilations, wanted)
        return (
            dx if needs[0] else None,
            None,
            None,
            *(dweights[i].to(x.dtype) if needs[3 + i] else None for i in range(count)),
            *(dbiases[i].to(x.dtype) if needs[3 + count + i] else None for i in range(count)),
        )


class _SeparableAsppConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dilations: list[int], count: int, *parameters: Tensor | None) -> Tensor:
        depthwise, pointwise, between, after = (parameters[i * count : (i + 1) * count] for i in range(4))
        # The bias between the convolutions is needed again for what lies between them.
        ctx.save_for_backward(x, *depthwise, *pointwise, *between)
        ctx.dilations, ctx.count = dilations, count
        return separable_op(x, depthwise, pointwise, between, after, dilations)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        count, needs = ctx.count, ctx.needs_input_grad
        depthwise, pointwise, between = (saved[i * count : (i + 1) * count] for i in range(3))
        kinds = [needs[3 + i * count : 3 + (i + 1) * count] for i in range(4)]
        wanted = [needs[0], *(any(kind) for kind in kinds)]
        dx, *gradients = separable_backward_op(grad, x, depthwise, pointwise, between, ctx.dilations, wanted)
        return (
            dx if needs[0] else None,
            None,
            None,
            *(gradients[kind][i].to(x.dtype) if kinds[kind][i] else None for kind in range(4) for i in range(count)),
        )
