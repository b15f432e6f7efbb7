"""Soft-mask attention in Triton: (1 + sigmoid(mask)) * trunk.

Bytes to move, in u, one pass over the trunk:

                        forward                             backward
    mask of C channels  3u: read trunk and mask, write y    5u: read grad, trunk and mask, write dtrunk and dmask
    mask of 1 channel   2u + u/C                            3u + 2u/C

A program that has a mask of one channel goes over all channels of its pixels: the sigmoid is computed once, and the
gradient of the mask is a sum in registers. No atomics: results are deterministic.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from fastseg.backends.triton import soft_mask_attention_kernels as kernels
from fastseg.backends.triton.norm import streaming_tile
from fastseg.backends.triton.tensors import alignment, compute_dtype, in_layout, launch, strided, tl_dtype
from fastseg.backends.views import Layout, layout_of

TILE_BYTES = 16 * 1024  # of values as computed with; up to five such tiles are alive
CHANNELS_AT_ONCE = 4  # of rows, where a program goes over all channels: so many of its loads are under way


def _shape(trunk: Tensor, mask: Tensor, layout: Layout, views: Any, masks: Any) -> tuple[int, int, dict[str, Any]]:
    """Programs, warps, and the constants of a launch. ``masks``: Views of one channel, which are rows."""
    channels, spatial = trunk.shape[1], trunk.shape[2:].numel()
    one = mask.shape[1] != channels
    tile = streaming_tile(channels, layout, trunk.dtype, TILE_BYTES // 4 if one else TILE_BYTES)
    if one and layout == "rows":
        tile = tile._replace(channels=CHANNELS_AT_ONCE, pixels=tile.pixels // CHANNELS_AT_ONCE)
    programs = trunk.shape[0] * triton.cdiv(spatial, tile.pixels) * (1 if one else triton.cdiv(channels, tile.channels))
    return (
        programs,
        4 if one else tile.warps,
        {
            "ACC": tl_dtype(compute_dtype(trunk.dtype)),
            "ONE": one,
            "MASK_ALIGN": alignment(spatial, *masks),
            "CHANNELS_LAST": layout == "channels_last",
            "ALIGN": alignment(spatial if layout == "rows" else channels, *views),
            "BLOCK_C": tile.channels,
            "BLOCK_S": tile.pixels,
        },
    )


def soft_mask_attention_forward(trunk: Tensor, mask: Tensor) -> Tensor:
    layout = layout_of(trunk)
    if layout is None:
        trunk, layout = trunk.contiguous(), "rows"
    one = mask.shape[1] != trunk.shape[1]
    y = torch.empty_like(trunk)
    soft = in_layout(mask, "rows" if one else layout)
    views = [strided(trunk, layout), strided(y, layout)]
    programs, warps, constants = _shape(trunk, mask, layout, views if one else [*views, soft], [soft] if one else [])
    with torch.cuda.device_of(trunk):
        launch(
            kernels.forward, programs, warps, views[0], soft, views[1], trunk.shape[1], trunk.shape[2:].numel(),
            **constants,
        )  # fmt: skip
    return y


def soft_mask_attention_backward(
    grad: Tensor, trunk: Tensor, mask: Tensor, wants_trunk: bool, wants_mask: bool
) -> tuple[Tensor, Tensor]:
    """What is not wanted is empty."""
    nothing = [trunk.new_empty((0,)) for _ in range(2)]
    if not (wants_trunk or wants_mask):
        return nothing[0], nothing[1]
    layout = layout_of(trunk)
    if layout is None:
        trunk, layout = trunk.contiguous(), "rows"
    one = mask.shape[1] != trunk.shape[1]
    dtrunk = torch.empty_like(trunk) if wants_trunk else None
    dmask = None
    if wants_mask:
        dmask = mask.new_empty(mask.shape) if one else torch.empty_like(trunk)
    mask_layout: Layout = "rows" if one else layout
    soft, target = in_layout(mask, mask_layout), strided(dmask, mask_layout)
    views = [in_layout(grad, layout), strided(trunk, layout), strided(dtrunk, layout)]
    masks = [soft, target]
    programs, warps, constants = _shape(trunk, mask, layout, views if one else views + masks, masks if one else [])
    with torch.cuda.device_of(trunk):
        launch(
            kernels.backward, programs, warps,
            views[0], views[1], soft, views[2], target, trunk.shape[1], trunk.shape[2:].numel(), **constants,
        )  # fmt: skip
    return nothing[0] if dtrunk is None else dtrunk, nothing[1] if dmask is None else dmask
