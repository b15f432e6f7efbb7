"""Instance norm, affine, residual and activation in Triton.

    y = act((x - mean) * rstd * weight + bias + residual)        statistics per (batch, channel), biased variance

Bytes to move, in u, one pass over the tensor (a residual adds 1u forward and 2u backward):

                forward                          backward
    on chip     2u: read x, write y              3u: read grad and x, write dx
    streaming   3u: read x twice, write y        5u: read grad and x twice, write dx

On chip: one program holds its rows in registers. Longer rows are streamed. A first kernel leaves the moments (backward:
the sums) of every part of a row in a slot of its own, a last one merges them and applies them. In the rows layout every
program of the last kernel merges the parts of its row again, which is cheaper than one more launch. Channels-last
programs hold many channels, so there a small kernel in between merges them once. No atomics: results are deterministic.

With statistics that are given (instance_norm_act_apply) the forward pass is one kernel of 2u.

How moments are gathered and merged: moments.py. The kernels: norm_kernels.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fastseg.backends.triton import norm_kernels as kernels
from fastseg.backends.triton.tensors import Strided, alignment, compute_dtype, dense, in_layout, launch, strided
from fastseg.backends.views import ACTIVATION, Layout, layout_of

# Sizes are of the values as computed with: float32, or float64 for float64 tensors.
RESIDENT_BYTES = 64 * 1024  # of a tensor held by one program; more would spill or leave one program per multiprocessor
FORWARD_TILE_BYTES = 32 * 1024
BACKWARD_TILE_BYTES = 16 * 1024  # up to three tensors are held at a time
MAX_PARTS: dict[Layout, int] = {"rows": 512, "channels_last": 1024}  # that a row is split into
SECTOR_BYTES = 32  # the least that device memory hands out


class Tile(NamedTuple):
    """What one program holds at a time, and with how many warps."""

    channels: int
    pixels: int
    warps: int


def resident_tile(channels: int, spatial: int, layout: Layout, dtype: torch.dtype) -> Tile | None:
    """The tile with which whole rows stay in registers, or None where they are too long for that."""
    size = compute_dtype(dtype).itemsize
    pixels = triton.next_power_of_2(spatial)
    # Short rows share a program. Channels-last needs neighbouring channels to use what it fetches.
    fewest = 1 if layout == "rows" else SECTOR_BYTES // dtype.itemsize
    block = min(max(1024 // pixels, fewest), triton.next_power_of_2(channels))
    if block * pixels * size > RESIDENT_BYTES:
        return None
    return Tile(block, pixels, warps=min(max(block * pixels * size // 2048, 1), 16))


def streaming_tile(channels: int, layout: Layout, dtype: torch.dtype, tile_bytes: int) -> Tile:
    """The tile in which rows that do not fit are walked."""
    elements = tile_bytes // compute_dtype(dtype).itemsize
    block = 1 if layout == "rows" else min(triton.next_power_of_2(channels), 64)
    return Tile(block, elements // block, warps=8)


def split_rows(spatial: int, tile: Tile, layout: Layout) -> tuple[int, int]:
    """(pixels per part, parts): whole tiles per part, as many as keep the number of parts in bounds."""
    tiles = triton.cdiv(spatial, tile.pixels)
    chunk = triton.cdiv(tiles, MAX_PARTS[layout]) * tile.pixels
    return chunk, triton.cdiv(spatial, chunk)


# ---- launches --------------------------------------------------------------------------------------------------------


def _shape(
    tile: Tile, layout: Layout, channels: int, spatial: int, views: tuple[Strided | None, ...]
) -> dict[str, int | bool]:
    inner = spatial if layout == "rows" else channels
    return {
        "CHANNELS_LAST": layout == "channels_last",
        "ALIGN": alignment(inner, *views),
        "BLOCK_C": tile.channels,
        "BLOCK_S": tile.pixels,
    }


def instance_norm_act_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    negative_slope: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y like x, and mean and rstd: (batch, channels) in float32, or float64 where x is."""
    layout = layout_of(x)
    if layout is None:
        x, layout = x.contiguous(), "rows"
    batch, channels = x.shape[:2]
    rows, spatial = batch * channels, x.shape[2:].numel()
    y = torch.empty_like(x)
    mean = x.new_empty((batch, channels), dtype=compute_dtype(x.dtype))
    rstd = torch.empty_like(mean)
    views = strided(x, layout), in_layout(residual, layout), strided(y, layout)
    source, addend, target = views
    operands = dense(weight), dense(bias), addend, target, mean, rstd

    resident = resident_tile(channels, spatial, layout, x.dtype)
    tile = resident or streaming_tile(channels, layout, x.dtype, FORWARD_TILE_BYTES)
    blocks = batch * triton.cdiv(channels, tile.channels)
    shape = _shape(tile, layout, channels, spatial, views)
    epilogue = {"ACTIVATION": ACTIVATION[activation], "NEGATIVE_SLOPE": negative_slope, "EPS": eps}
    with torch.cuda.device_of(x):
        if resident:
            launch(
                kernels.forward_resident, blocks, tile.warps, source, *operands, channels, spatial, **shape, **epilogue
            )
            return y, mean, rstd
        chunk, parts = split_rows(spatial, tile, layout)
        sizes = rows, channels, spatial, parts, chunk
        partials = mean.new_empty((3, rows, parts))
        launch(kernels.forward_moments, blocks * parts, tile.warps, source, partials, *sizes, **shape)
        block = triton.next_power_of_2(parts)
        if layout == "channels_last":
            merged = mean.new_empty((3, rows))
            launch(kernels.merge_moments, rows, 4, partials, merged, rows, spatial, parts, chunk, BLOCK_P=block)
            partials, block = merged, 1
        programs = blocks * triton.cdiv(spatial, tile.pixels)
        launch(
            kernels.forward_apply, programs, tile.warps,
            source, partials, *operands, *sizes, BLOCK_P=block, **shape, **epilogue,
        )  # fmt: skip
    return y, mean, rstd


def instance_norm_act_apply(
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
) -> Tensor:
    """act((x - mean) * rstd * weight + bias), with statistics that another kernel gathered."""
    layout = layout_of(x)
    if layout is None:
        x, layout = x.contiguous(), "rows"
    batch, channels = x.shape[:2]
    spatial = x.shape[2:].numel()
    y = torch.empty_like(x)
    views = strided(x, layout), strided(y, layout)
    tile = resident_tile(channels, spatial, layout, x.dtype) or streaming_tile(
        channels, layout, x.dtype, FORWARD_TILE_BYTES
    )
    programs = batch * triton.cdiv(channels, tile.channels) * triton.cdiv(spatial, tile.pixels)
    with torch.cuda.device_of(x):
        launch(
            kernels.apply_given, programs, tile.warps,
            views[0], dense(weight), dense(bias), views[1], mean, rstd, channels, spatial,
            ACTIVATION=ACTIVATION[activation], NEGATIVE_SLOPE=negative_slope,
            **_shape(tile, layout, channels, spatial, views),
        )  # fmt: skip
    return y


def instance_norm_act_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    activation: str,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx, dweight, dbias (both in the dtype of the statistics) and dresidual.

    y is given where a residual went through an activation: its sign decides the branch then. Otherwise dresidual is
    empty.
    """
    layout = layout_of(x)
    if layout is None:
        x, layout = x.contiguous(), "rows"
    batch, channels = x.shape[:2]
    rows, spatial = batch * channels, x.shape[2:].numel()
    dx = torch.empty_like(x)
    dresidual = torch.empty_like(x) if y is not None else None
    views = (
        in_layout(grad, layout),
        strided(x, layout),
        in_layout(y, layout),
        strided(dx, layout),
        strided(dresidual, layout),
    )
    incoming, source, branch, target, through = views
    weight, bias = dense(weight), dense(bias)

    resident = resident_tile(channels, spatial, layout, x.dtype)
    tile = resident or streaming_tile(channels, layout, x.dtype, BACKWARD_TILE_BYTES)
    blocks = batch * triton.cdiv(channels, tile.channels)
    chunk, parts = (spatial, 1) if resident else split_rows(spatial, tile, layout)
    sums = mean.new_empty((2, rows, parts))
    shape = _shape(tile, layout, channels, spatial, views)
    epilogue = {"ACTIVATION": ACTIVATION[activation], "NEGATIVE_SLOPE": negative_slope}
    sizes = rows, channels, spatial
    operands = incoming, source, weight, bias, branch, mean, rstd
    with torch.cuda.device_of(x):
        if resident:
            outputs = target, through, sums
            launch(kernels.backward_resident, blocks, tile.warps, *operands, *outputs, *sizes, **shape, **epilogue)
        else:
            launch(
                kernels.backward_sums, blocks * parts, tile.warps,
                *operands, through, sums, *sizes, parts, chunk, **shape, **epilogue,
            )  # fmt: skip
            if layout == "channels_last":
                sums, parts = sums.sum(2, keepdim=True), 1
            if through is not None:
                # It holds the gradient behind the activation: neither grad nor y need be read again.
                operands = through, source, weight, None, None, mean, rstd
                epilogue["ACTIVATION"] = ACTIVATION["none"]
            programs = blocks * triton.cdiv(spatial, tile.pixels)
            shape["BLOCK_P"] = triton.next_power_of_2(parts)
            launch(
                kernels.backward_apply,
                programs,
                tile.warps,
                *operands,
                sums,
                target,
                *sizes,
                parts,
                **shape,
                **epilogue,
            )
    # Two reductions, for outputs of an op must not share memory.
    dbias, dweight = (part.sum((0, 2)) for part in sums.view(2, batch, channels, parts))
    return dx, dweight, dbias, x.new_empty((0,)) if dresidual is None else dresidual
