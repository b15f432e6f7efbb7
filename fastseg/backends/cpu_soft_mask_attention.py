"""Launches the CPU kernels of soft-mask attention. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.cpu import pointwise_conv_forward
from fastseg.backends.memory import empty_like, new_empty
from fastseg.backends.views import as_layout, layout_of, optional_view, vector, view


def soft_mask_attention_forward(trunk: Tensor, mask: Tensor) -> Tensor:
    layout = layout_of(trunk) or "rows"
    trunk = as_layout(trunk, layout)
    mask = as_layout(mask, layout if mask.shape == trunk.shape else "rows")
    y = empty_like(trunk)
    _C.soft_mask_attention_forward(
        trunk.shape[0],
        trunk.shape[1],
        trunk.shape[2:].numel(),
        mask.shape[1],
        view(trunk),
        view(mask),
        view(y),
        torch.get_num_threads(),
    )
    return y


def soft_mask_attention_backward(
    grad: Tensor, trunk: Tensor, mask: Tensor, wants_trunk: bool, wants_mask: bool
) -> tuple[Tensor, Tensor]:
    """What is not wanted is empty."""
    layout = layout_of(trunk) or "rows"
    trunk, grad = as_layout(trunk, layout), as_layout(grad, layout)
    whole = mask.shape == trunk.shape
    mask = as_layout(mask, layout if whole else "rows")
    dtrunk = empty_like(trunk) if wants_trunk else None
    dmask = None
    if wants_mask:
        dmask = empty_like(trunk) if whole else new_empty(mask.shape, mask.dtype)
    if dtrunk is not None or dmask is not None:
        _C.soft_mask_attention_backward(
            trunk.shape[0],
            trunk.shape[1],
            trunk.shape[2:].numel(),
            mask.shape[1],
            view(grad),
            view(trunk),
            view(mask),
            optional_view(dtrunk),
            optional_view(dmask),
            torch.get_num_threads(),
        )
    return (
        trunk.new_empty((0,)) if dtrunk is None else dtrunk,
        trunk.new_empty((0,)) if dmask is None else dmask,
    )


def soft_mask_attention_conv_forward(trunk: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In one kernel where that is faster: soft_mask_attention_conv.h says why only there."""
    if layout_of(trunk) != "channels_last" or weight.shape[0] != trunk.shape[1]:
        return soft_mask_attention_forward(trunk, pointwise_conv_forward(features, weight, bias))
    features = as_layout(features, "channels_last")
    y = empty_like(trunk)
    _C.soft_mask_attention_conv(
        trunk.shape[0],
        features.shape[1],
        trunk.shape[1],
        trunk.shape[2:].numel(),
        view(features),
        weight.data_ptr(),
        weight.stride(0),
        weight.stride(1),
        vector(bias),
        view(trunk),
        view(y),
        torch.get_num_threads(),
    )
    return y
