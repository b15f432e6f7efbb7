"""Launches the CPU kernels of cross-scale aggregation. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.memory import new_output
from fastseg.backends.views import ELEMENT


def cross_scale_aggregate(
    costs: Sequence[Tensor], lambda_: float, min_disparity: int, pyramid: bool
) -> tuple[Tensor, Tensor]:
    levels = [cost.contiguous() for cost in costs]
    batch, disparities, height, width = levels[0].shape
    result = new_output(levels[0], disparities, (height, width), "rows")
    finite = torch.ones((), dtype=torch.bool)
    _C.cross_scale_aggregate(
        batch,
        height,
        width,
        ELEMENT[result.dtype],
        tuple((level.data_ptr(), level.shape[1]) for level in levels),
        result.data_ptr(),
        finite.data_ptr(),
        lambda_,
        min_disparity,
        pyramid,
        torch.get_num_threads(),
    )
    return result, finite


def cross_scale_aggregate_backward(
    grad: Tensor,
    lambda_: float,
    min_disparity: int,
    pyramid: bool,
    shapes: Sequence[Sequence[int]],
    wanted: Sequence[int],
) -> list[Tensor]:
    grad = grad.contiguous()
    batch, _, height, width = grad.shape
    gradients = {level: new_output(grad, shapes[level][1], shapes[level][2:], "rows") for level in wanted}
    pointers = (gradients[level].data_ptr() if level in gradients else 0 for level in range(len(shapes)))
    _C.cross_scale_aggregate_backward(
        batch,
        height,
        width,
        ELEMENT[grad.dtype],
        tuple((pointer, shape[1]) for pointer, shape in zip(pointers, shapes, strict=True)),
        grad.data_ptr(),
        0,
        lambda_,
        min_disparity,
        pyramid,
        torch.get_num_threads(),
    )
    return list(gradients.values())
