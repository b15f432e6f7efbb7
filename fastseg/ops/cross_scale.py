"""Cross-scale cost aggregation: matching costs of several scales, coupled at every pixel and disparity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, check_numbers, reads_numbers
from fastseg.ops.cross_scale_levels import (
    check_lambda,
    check_levels,
    check_levels_numbers,
    check_min_disparity,
    guides_as_tensors,
    is_pyramid,
    levels_as_tensors,
)
from fastseg.ops.guided_filter import check_guided_filter, guided_filter
from fastseg.ops.registry import register

_NAME = "cross_scale_aggregate"


def cross_scale_aggregate(
    costs: Sequence[ArrayT],
    *,
    lambda_: float = 0.3,
    min_disparity: int = 0,
    guide: Array | Sequence[Array] | None = None,
    radius: int = 9,
    eps: float = 1e-4,
    border: str = "truncate",
) -> ArrayT:
    """Combine cost volumes of several scales into one for the finest scale, and filter each before it where asked.

    At every pixel and disparity of the finest level the answer is z_0 of ``min over z of sum_s (z_s - C_s)^2 +
    lambda_ * sum_s (z_s - z_{s-1})^2``, C_s the costs of level s there: an average ``sum_s w_s C_s`` whose weights add
    up to 1. Zhang et al. 2014, "Cross-scale cost aggregation for stereo matching". Differentiable with respect to every
    level, as often as needed.

    Args:
        costs: a list or tuple of 1 to 16 levels, the finest first, each (D, H, W) or (B, D, H, W): all NumPy, all CuPy
            or all torch; one dtype, float32, float64, float16 or bfloat16; one device. Levels of one shape are read
            at the same place. Otherwise they are a pyramid: level s + 1 has (H + 1) // 2 rows and (W + 1) // 2 columns
            of level s, whose pixel (y, x) and disparity d is there at (y // 2, x // 2) and (d + 1) // 2.
            :func:`~fastseg.ops.cross_scale_shapes` gives the shapes. A level may have more disparities than are looked
            up; of these the gradient is zero, and without guides NaN there passes.
        lambda_: 0 (the finest level alone) to 1e20 (the average of all levels).
        min_disparity: the disparity of the finest level's first slice; tells the pyramid's disparities. Level s starts
            at ``(m + 1) // 2`` of the level before.
        guide: one guide for levels of one shape, or a list or tuple of one for each level, at its size: each level is
            filtered by :func:`~fastseg.ops.guided_filter` before it is combined. Where the guide is one for all
            levels, their combination is filtered, once: the filter is linear.
        radius, eps, border: those of the guided filter, for every level.

    Returns:
        An array of costs[0]'s shape, kind, device and dtype. Computed in float32, in float64 for float64.

    Raises:
        ValueError: no level or too many, shapes that are neither equal nor a pyramid's, a wrong number of guides, a
            number out of its range, different devices, NaN or infinity (not looked for under torch.compile).
        TypeError: no list or tuple, another dtype, several dtypes or kinds of array.
    """
    levels = levels_as_tensors(_NAME, costs)
    check_lambda(_NAME, lambda_)
    check_min_disparity(_NAME, min_disparity)
    check_levels(_NAME, levels, int(min_disparity))
    guides, shared = guides_as_tensors(_NAME, guide, levels)
    reads = reads_numbers()
    if guides:
        check_guided_filter(_NAME, radius, eps, border)
        for s in range(len(guides) if reads else 0):
            check_numbers(_NAME, "guide" if shared else f"guide[{s}]", guides[s])

    def filtered(image: Tensor, level: Tensor) -> Tensor:
        return guided_filter(image, level, radius=int(radius), eps=float(eps), border=border)

    if select.runs_reference(_NAME, levels[0]):
        if reads:
            check_levels_numbers(_NAME, levels)
        result = reference.cross_scale_aggregate(
            levels,
            lambda_=float(lambda_),
            min_disparity=int(min_disparity),
            guide=guides or None,
            radius=int(radius),
            eps=float(eps),
            border=border,
        )
        return as_kind_of(costs[0], result)
    if guides and not shared:
        if reads:
            check_levels_numbers(_NAME, levels)
        levels = [filtered(image, level) for image, level in zip(guides, levels, strict=True)]
    result, finite = _combine(levels, float(lambda_), int(min_disparity))
    # The kernel looks for NaN on its way; a pass of its own over all levels would take nearly as long again.
    if reads and not bool(finite):
        check_levels_numbers(_NAME, levels)
    return as_kind_of(costs[0], filtered(guides[0], result) if shared else result)


def _combine(levels: Sequence[Tensor], lambda_: float, min_disparity: int) -> tuple[Tensor, Tensor]:
    pyramid, batched = is_pyramid(levels), levels[0].ndim == 4
    volumes = [level if batched else level.unsqueeze(0) for level in levels]
    if torch.is_grad_enabled() and any(volume.requires_grad for volume in volumes):
        result, finite = _CrossScale.apply(lambda_, min_disparity, pyramid, *volumes)
    else:
        result, finite = _op(volumes, lambda_, min_disparity, pyramid)
    return result if batched else result.squeeze(0), finite


class _CrossScale(torch.autograd.Function):
    """A linear map of all levels: its gradient is the transposed map, whose gradient is the map again."""

    @staticmethod
    def forward(ctx: Any, lambda_: float, min_disparity: int, pyramid: bool, *costs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.parameters = lambda_, min_disparity, pyramid
        ctx.shapes = [cost.shape for cost in costs]
        result, finite = _op(costs, lambda_, min_disparity, pyramid)
        ctx.mark_non_differentiable(finite)
        return result, finite

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [s for s in range(len(ctx.shapes)) if ctx.needs_input_grad[3 + s]]
        gradients = iter(_CrossScaleTransposed.apply(grad, *ctx.parameters, ctx.shapes, wanted))
        return None, None, None, *(next(gradients) if s in wanted else None for s in range(len(ctx.shapes)))


class _CrossScaleTransposed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        lambda_: float,
        min_disparity: int,
        pyramid: bool,
        shapes: list[torch.Size],
        wanted: list[int],
    ) -> tuple[Tensor, ...]:
        ctx.parameters = lambda_, min_disparity, pyramid
        ctx.shapes, ctx.wanted = shapes, wanted
        sizes = [size for shape in shapes for size in shape]
        return tuple(_backward_op(grad, lambda_, min_disparity, pyramid, sizes, wanted))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given = dict(zip(ctx.wanted, grads, strict=True))
        costs = [given[s] if s in given else grads[0].new_zeros(()).expand(shape) for s, shape in enumerate(ctx.shapes)]
        return _CrossScale.apply(*ctx.parameters, *costs)[0], None, None, None, None, None


def _forward(costs: list[Tensor], lambda_: float, min_disparity: int, pyramid: bool) -> tuple[Tensor, Tensor]:
    if costs[0].numel() == 0:
        return costs[0].new_empty(costs[0].shape), costs[0].new_ones((), dtype=torch.bool)
    result: tuple[Tensor, Tensor] = select.kernel(_NAME, costs[0]).cross_scale_aggregate(
        costs, lambda_, min_disparity, pyramid
    )
    return result


def _forward_fake(costs: list[Tensor], lambda_: float, min_disparity: int, pyramid: bool) -> tuple[Tensor, Tensor]:
    return costs[0].new_empty(costs[0].shape), costs[0].new_empty((), dtype=torch.bool)


def _backward(
    grad: Tensor, lambda_: float, min_disparity: int, pyramid: bool, sizes: list[int], wanted: list[int]
) -> list[Tensor]:
    shapes = _shapes(sizes)
    if grad.numel() == 0:
        return [grad.new_empty(shapes[s]) for s in wanted]
    result: list[Tensor] = select.kernel(_NAME, grad).cross_scale_aggregate_backward(
        grad, lambda_, min_disparity, pyramid, shapes, wanted
    )
    return result


def _backward_fake(
    grad: Tensor, lambda_: float, min_disparity: int, pyramid: bool, sizes: list[int], wanted: list[int]
) -> list[Tensor]:
    shapes = _shapes(sizes)
    return [grad.new_empty(shapes[s]) for s in wanted]


def _shapes(sizes: list[int]) -> list[list[int]]:
    return [sizes[i : i + 4] for i in range(0, len(sizes), 4)]


_op = register(
    "cross_scale_aggregate(Tensor[] costs, float lambda_, int min_disparity, bool pyramid) "
    "-> (Tensor result, Tensor finite)",
    _forward,
    _forward_fake,
)
_backward_op = register(
    "cross_scale_aggregate_backward(Tensor grad, float lambda_, int min_disparity, bool pyramid, SymInt[] sizes, "
    "int[] wanted) -> Tensor[]",
    _backward,
    _backward_fake,
)
