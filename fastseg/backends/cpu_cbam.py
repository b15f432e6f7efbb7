"""Launches the CPU kernels of channel and spatial attention. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.cbam_call import SPATIAL, Gradients, Saved, Weights, needed, new_gradients, new_saved, weights_for
from fastseg.backends.memory import new_output
from fastseg.backends.views import as_layout, layout_of, three_axes, view


def cbam_forward(
    x: Tensor,
    parameters: Iterable[Tensor | None],
    spatial: str,
    max_pool: bool,
    max_first: bool,
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Saved]:
    layout = layout_of(x) or "rows"
    x = as_layout(x, layout)
    weights = weights_for(x, *parameters)
    y = new_output(x, x.shape[1], x.shape[2:], layout)
    saved = new_saved(x, needed(weights.fc1_weight is not None, spatial, max_pool, normalize), max_pool)
    _C.cbam_forward(
        _shape(x, weights, spatial, max_pool, max_first, normalize),
        view(x),
        view(y),
        _addresses(weights),
        _addresses(saved),
        eps,
        torch.get_num_threads(),
    )
    return y, saved


def cbam_backward(
    grad: Tensor,
    x: Tensor,
    parameters: Iterable[Tensor | None],
    saved: Saved,
    spatial: str,
    max_pool: bool,
    max_first: bool,
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Gradients]:
    layout = layout_of(x) or "rows"
    x, grad = as_layout(x, layout), as_layout(grad, layout)
    weights = weights_for(x, *parameters)
    dx = new_output(x, x.shape[1], x.shape[2:], layout)
    gradients = new_gradients(x, *weights)
    _C.cbam_backward(
        _shape(x, weights, spatial, max_pool, max_first, normalize),
        view(grad),
        view(x),
        view(dx),
        _addresses(weights),
        _addresses(saved),
        _addresses(gradients),
        eps,
        torch.get_num_threads(),
    )
    return dx, gradients


def _shape(
    x: Tensor, weights: Weights, spatial: str, max_pool: bool, max_first: bool, normalize: bool
) -> tuple[int, ...]:
    """CbamShape of csrc/include/fastseg/cbam.h: missing spatial axes become axes of size 1."""
    batch, channels, *size = x.shape
    kernel = weights.spatial_weight.shape[2:] if weights.spatial_weight is not None else ()
    hidden = 0 if weights.fc1_weight is None else weights.fc1_weight.shape[0]
    return (
        batch,
        channels,
        *three_axes(size),
        hidden,
        *three_axes(kernel),
        SPATIAL[spatial],
        max_pool,
        max_first,
        normalize,
    )


def _addresses(tensors: Iterable[Tensor | None]) -> tuple[int, ...]:
    """Empty tensors have the address 0."""
    return tuple(0 if t is None else t.data_ptr() for t in tensors)
