"""Kernels of channel and spatial attention; cbam.py launches them and says how much they move.

They work on tiles of [channels, pixels]. Offsets are 64-bit. Small tensors are dense: (N, C), (N, S) and (N, 2, S).
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.cbam_call import SPATIAL
from fastseg.backends.triton.tensors import batch_and_channels, per_channel, pointers, tile_mask

NONE = tl.constexpr(SPATIAL["none"])
POOLED = tl.constexpr(SPATIAL["pooled"])

# ---- device functions ------------------------------------------------------------------------------------------------


@triton.jit
def _per_pixel(plane, pixel, spatial):
    return tl.load(plane + pixel, pixel < spatial, 0)[None, :]


@triton.jit
def _weights(weight, row, channel, channels, ACC: tl.constexpr):
    """One a channel, from ``row`` of a matrix; ones where there is none."""
    if weight is None:
        return tl.full([1, 1], 1.0, ACC)
    else:
        return per_channel(weight + row * channels, channel, channels, ACC)


@triton.jit
def _is_above(value, best):
    """NaN is larger than all numbers, and an equal one is not above."""
    return ~(value <= best) & (best == best)


@triton.jit
def _first_peak(best, place, LAST: tl.constexpr, AXIS: tl.constexpr):
    """The maximum along an axis and the lowest place that has it; places are below LAST."""
    is_nan = best != best
    some_nan = tl.max(is_nan.to(tl.int32), AXIS) > 0
    top = tl.max(tl.where(is_nan, float("-inf"), best), AXIS)
    has = tl.where(tl.expand_dims(some_nan, AXIS), is_nan, best == tl.expand_dims(top, AXIS))
    return tl.where(some_nan, float("nan"), top), tl.min(tl.where(has, place, LAST), AXIS)


@triton.jit
def _image_and_pixels(spatial, BLOCK_S: tl.constexpr):
    tiles = tl.cdiv(spatial, BLOCK_S)
    tile = tl.program_id(0) % tiles
    return (tl.program_id(0) // tiles).to(tl.int64), tile, tile.to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)


@triton.jit
def _tile_of_program(channels, spatial, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr):
    """For elementwise kernels. The tile that was read last goes first, for it is still in the cache."""
    tiles = tl.cdiv(spatial, BLOCK_S)
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    n, channel = batch_and_channels(program // tiles, channels, BLOCK_C)
    return n, channel, (program % tiles).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)


# ---- forward ---------------------------------------------------------------------------------------------------------


@triton.jit
def pool(
    x, sums, peaks, places, channels, spatial, parts, chunk,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sum and, where ``peaks`` is given, maximum and its first pixel of one part of the pixels, into [rows, parts]."""
    ACC: tl.constexpr = sums.dtype.element_ty
    part = (tl.program_id(0) % parts).to(tl.int64)
    n, channel = batch_and_channels(tl.program_id(0) // parts, channels, BLOCK_C)
    first = part * chunk
    end = tl.minimum(first + chunk, spatial)
    # Each element of the tile has a sum and a peak of its own, so that tiles need no sum over lanes.
    total = tl.zeros([BLOCK_C, BLOCK_S], ACC)
    best = tl.full([BLOCK_C, BLOCK_S], float("-inf"), ACC)
    where = tl.zeros([BLOCK_C, BLOCK_S], tl.int32)
    for tile in range(tl.cdiv(end - first, BLOCK_S).to(tl.int32)):
        pixel = first + tile * BLOCK_S + tl.arange(0, BLOCK_S)
        mask = tile_mask(channel, pixel, channels, end, CHANNELS_LAST, ALIGN)
        values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
        total += values
        if peaks is not None:
            above = mask & _is_above(values, best)
            best = tl.where(above, values, best)
            where = tl.where(above, tile, where)
    slot = (n * channels + channel) * parts + part
    tl.store(sums + slot, tl.sum(total, 1), channel < channels)
    if peaks is not None:
        place = first + where.to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)[None, :]
        top, at = _first_peak(best, place, 1 << 62, 1)
        tl.store(peaks + slot, top, channel < channels)
        tl.store(places + slot, at, channel < channels)


@triton.jit
def mix(
    x, weight, maps, places, channels, spatial,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Mean and maximum over channels of x * weight into maps[N, 2, S], and the first channel that has the maximum."""
    ACC: tl.constexpr = maps.dtype.element_ty
    n, _, pixel = _image_and_pixels(spatial, BLOCK_S)
    total = tl.zeros([BLOCK_C, BLOCK_S], ACC)
    best = tl.full([BLOCK_C, BLOCK_S], float("-inf"), ACC)
    block = tl.zeros([BLOCK_C, BLOCK_S], tl.int32)
    for first in range(0, channels, BLOCK_C):
        channel = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
        values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
        values *= _weights(weight, n, channel, channels, ACC)
        total += values
        above = mask & _is_above(values, best)
        best = tl.where(above, values, best)
        block = tl.where(above, first, block)
    top, place = _first_peak(best, block + tl.arange(0, BLOCK_C)[:, None], 1 << 30, 0)
    inside = pixel < spatial
    tl.store(maps + 2 * n * spatial + pixel, tl.sum(total, 0) / channels, inside)
    tl.store(maps + (2 * n + 1) * spatial + pixel, top, inside)
    tl.store(places + n * spatial + pixel, place, inside)


@triton.jit
def project(
    x, weight, to, channels, spatial,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The sum over channels of x * weight[C], into to[N, S]."""
    ACC: tl.constexpr = to.dtype.element_ty
    n, _, pixel = _image_and_pixels(spatial, BLOCK_S)
    total = tl.zeros([BLOCK_S], ACC)
    for first in range(0, channels, BLOCK_C):
        channel = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
        values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
        total += tl.sum(values * _weights(weight, 0, channel, channels, ACC), 0)
    tl.store(to + n * spatial + pixel, total, pixel < spatial)


@triton.jit
def scale(
    x, channel_gate, spatial_gate, y, channels, spatial,
    KIND: tl.constexpr, COMPUTE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    n, channel, pixel = _tile_of_program(channels, spatial, BLOCK_C, BLOCK_S)
    mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(COMPUTE)
    gate = _weights(channel_gate, n, channel, channels, COMPUTE)
    if KIND == POOLED:
        gate = gate * _per_pixel(spatial_gate + n * spatial, pixel, spatial)
    elif KIND != NONE:
        gate = gate + _per_pixel(spatial_gate + n * spatial, pixel, spatial)
    tl.store(pointers(y, n, channel, pixel, CHANNELS_LAST, ALIGN), values * gate, mask)


# ---- backward --------------------------------------------------------------------------------------------------------


@triton.jit
def gate_gradients(
    grad, x, channel_gate, spatial_gate, dspatial, dchannel, channels, spatial,
    KIND: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums of grad * x over channels into dspatial[N, S], and over a tile's pixels into dchannel[N * C, tiles]; where
    gates are multiplied, each sum with the other gate."""
    ACC: tl.constexpr = dchannel.dtype.element_ty
    n, tile, pixel = _image_and_pixels(spatial, BLOCK_S)
    tiles = tl.cdiv(spatial, BLOCK_S)
    total = tl.zeros([BLOCK_S], ACC)
    for first in range(0, channels, BLOCK_C):
        channel = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
        product = tl.load(pointers(grad, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
        product *= tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
        of_channel = product
        if KIND == POOLED:
            total += tl.sum(product * _weights(channel_gate, n, channel, channels, ACC), 0)
            of_channel = product * _per_pixel(spatial_gate + n * spatial, pixel, spatial)
        elif KIND != NONE:
            total += tl.sum(product, 0)
        tl.store(dchannel + (n * channels + channel) * tiles + tile, tl.sum(of_channel, 1), channel < channels)
    if KIND != NONE:
        tl.store(dspatial + n * spatial + pixel, total, pixel < spatial)


@triton.jit
def mix_gradients(
    x, dmaps, places, dmix, channels, spatial,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums over a tile's pixels of x times the gradient of x * weight in the maps, into dmix[N * C, tiles].

    dmaps is [N, 2, S] with ``places``, or [N, S] without: a weighted sum has no maximum beside it.
    """
    ACC: tl.constexpr = dmix.dtype.element_ty
    n, tile, pixel = _image_and_pixels(spatial, BLOCK_S)
    tiles = tl.cdiv(spatial, BLOCK_S)
    for first in range(0, channels, BLOCK_C):
        channel = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
        values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
        values *= _of_maps(dmaps, places, n, channel, pixel, spatial)
        tl.store(dmix + (n * channels + channel) * tiles + tile, tl.sum(values, 1), channel < channels)


@triton.jit
def _of_maps(dmaps, places, n, channel, pixel, spatial):
    if places is None:
        return _per_pixel(dmaps + n * spatial, pixel, spatial)
    else:
        of_sum = _per_pixel(dmaps + 2 * n * spatial, pixel, spatial)
        of_peak = _per_pixel(dmaps + (2 * n + 1) * spatial, pixel, spatial)
        has = _per_pixel(places + n * spatial, pixel, spatial) == channel[:, None]
        return of_sum + tl.where(has, of_peak, 0.0)


@triton.jit
def spread(
    grad, channel_gate, spatial_gate, weight, dmaps, places, offset, peaks, dpeak, dx, channels, spatial, weight_rows,
    KIND: tl.constexpr, COMPUTE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """dx: grad through the gates, and the gradients of the maps and pools that x went into."""
    n, channel, pixel = _tile_of_program(channels, spatial, BLOCK_C, BLOCK_S)
    mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    values = tl.load(pointers(grad, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(COMPUTE)
    gate = _weights(channel_gate, n, channel, channels, COMPUTE)
    if KIND == POOLED:
        gate = gate * _per_pixel(spatial_gate + n * spatial, pixel, spatial)
    elif KIND != NONE:
        gate = gate + _per_pixel(spatial_gate + n * spatial, pixel, spatial)
    values *= gate
    if KIND != NONE:
        row = tl.minimum(n, weight_rows - 1)  # one row for all images, or one for each
        values += _weights(weight, row, channel, channels, COMPUTE) * _of_maps(
            dmaps, places, n, channel, pixel, spatial
        )
    if offset is not None:
        values += per_channel(offset + n * channels, channel, channels, COMPUTE)
    if dpeak is not None:
        row = n * channels + channel
        at = tl.load(peaks + row, channel < channels, 0)[:, None]
        values += tl.where(at == pixel[None, :], tl.load(dpeak + row, channel < channels, 0.0)[:, None], 0.0)
    tl.store(pointers(dx, n, channel, pixel, CHANNELS_LAST, ALIGN), values, mask)
