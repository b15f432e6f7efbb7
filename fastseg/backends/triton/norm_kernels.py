"""Kernels of the norm family; norm.py launches them and says how much they move.

They work on tiles of [channels, pixels]. Offsets are 64-bit.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.moments import merge_parts, merge_tile, moments, reciprocal_deviation
from fastseg.backends.triton.tensors import batch_and_channels, per_channel, pointers, tile_mask
from fastseg.backends.views import ACTIVATION

RELU = tl.constexpr(ACTIVATION["relu"])
LEAKY_RELU = tl.constexpr(ACTIVATION["leaky_relu"])

# ---- device functions ------------------------------------------------------------------------------------------------


@triton.jit
def _affine(xhat, weight, bias, channel, channels, ACC: tl.constexpr):
    z = xhat
    if weight is not None:
        z = z * per_channel(weight, channel, channels, ACC)
    if bias is not None:
        z = z + per_channel(bias, channel, channels, ACC)
    return z


@triton.jit
def _activate(value, z, ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr):
    """value where z is positive or NaN; forward passes z itself, backward the gradient."""
    if ACTIVATION == RELU:
        value = tl.where(z <= 0, 0.0, value)
    elif ACTIVATION == LEAKY_RELU:
        value = tl.where(z <= 0, value * NEGATIVE_SLOPE, value)
    return value


@triton.jit
def _finish_forward(
    xhat, weight, bias, residual, y, n, channel, pixel, mask, channels,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    z = _affine(xhat, weight, bias, channel, channels, ACC)
    if residual is not None:
        z += tl.load(pointers(residual, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    tl.store(pointers(y, n, channel, pixel, CHANNELS_LAST, ALIGN), _activate(z, z, ACTIVATION, NEGATIVE_SLOPE), mask)


@triton.jit
def _normalised(
    x, mean, rstd, n, channel, pixel, mask, channels, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    row_mean = per_channel(mean + n * channels, channel, channels, ACC)
    return (values - row_mean) * per_channel(rstd + n * channels, channel, channels, ACC)


@triton.jit
def _gradient_and_xhat(
    grad, x, weight, bias, y, mean, rstd, n, channel, pixel, mask, channels,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The gradient before the activation (zero where masked) and the normalised x."""
    g = tl.load(pointers(grad, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    xhat = _normalised(x, mean, rstd, n, channel, pixel, mask, channels, CHANNELS_LAST, ALIGN, ACC)
    if y is not None:
        z = tl.load(pointers(y, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    else:
        z = _affine(xhat, weight, bias, channel, channels, ACC)
    return _activate(g, z, ACTIVATION, NEGATIVE_SLOPE), xhat


@triton.jit
def _finish_backward(
    g, xhat, sum_g, sum_gx, weight, rstd, dx, n, channel, pixel, mask, channels, spatial,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    scale = per_channel(rstd + n * channels, channel, channels, ACC)
    if weight is not None:
        scale = scale * per_channel(weight, channel, channels, ACC)
    value = (g - sum_g / spatial - xhat * (sum_gx / spatial)) * scale
    tl.store(pointers(dx, n, channel, pixel, CHANNELS_LAST, ALIGN), value, mask)


@triton.jit
def _last_tile_first(channels, spatial, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr):
    """Tile, block of rows, batch index, channels and pixels of a program: the tile that was read or written last goes
    first, for it is still in the cache."""
    tiles = tl.cdiv(spatial, BLOCK_S)
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    tile = program % tiles
    n, channel = batch_and_channels(program // tiles, channels, BLOCK_C)
    return tile, program // tiles, n, channel, tile.to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)


@triton.jit
def _merge_row(partials, row, rows, spatial, parts, chunk, BLOCK_P: tl.constexpr):
    """center, shift and M2 of one whole row, as scalars, from partials[3, rows, parts]."""
    part = tl.arange(0, BLOCK_P).to(tl.int64)
    mask = part < parts
    slot = partials + row * parts + part
    center = tl.load(slot, mask, 0.0)
    shift = tl.load(slot + rows * parts, mask, 0.0)
    m2 = tl.load(slot + 2 * rows * parts, mask, 0.0)
    count = tl.maximum(tl.minimum(spatial - part * chunk, chunk), 0).to(partials.dtype.element_ty)
    return merge_parts(center, shift, m2, count, spatial, 0)


# ---- forward kernels -------------------------------------------------------------------------------------------------


@triton.jit
def forward_resident(
    x, weight, bias, residual, y, mean, rstd, channels, spatial,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr, EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Whole rows in registers: the statistics, then y."""
    ACC: tl.constexpr = mean.dtype.element_ty
    n, channel = batch_and_channels(tl.program_id(0), channels, BLOCK_C)
    pixel = tl.arange(0, BLOCK_S).to(tl.int64)
    mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    center, shift, m2, deviation = moments(values, mask, spatial)
    row_rstd = reciprocal_deviation(m2, spatial, EPS)
    row = n * channels + channel
    tl.store(mean + row, center + shift, channel < channels)
    tl.store(rstd + row, row_rstd, channel < channels)
    xhat = (deviation - shift[:, None]) * row_rstd[:, None]
    _finish_forward(
        xhat, weight, bias, residual, y, n, channel, pixel, mask, channels,
        ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip


@triton.jit
def forward_moments(
    x, partials, rows, channels, spatial, parts, chunk,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """center, shift and M2 of one part of the pixels into partials[3, rows, parts]."""
    ACC: tl.constexpr = partials.dtype.element_ty
    part = (tl.program_id(0) % parts).to(tl.int64)
    n, channel = batch_and_channels(tl.program_id(0) // parts, channels, BLOCK_C)
    first = part * chunk
    end = tl.minimum(first + chunk, spatial)
    center = tl.zeros([BLOCK_C], ACC)
    shift = tl.zeros([BLOCK_C], ACC)
    m2 = tl.zeros([BLOCK_C], ACC)
    count = tl.zeros([BLOCK_C], ACC)
    while first < end:
        pixel = first + tl.arange(0, BLOCK_S)
        mask = tile_mask(channel, pixel, channels, end, CHANNELS_LAST, ALIGN)
        values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
        tile_count = tl.minimum(end - first, BLOCK_S).to(ACC)
        tile_center, tile_shift, tile_m2, _ = moments(values, mask, tile_count)
        center, shift, m2, count = merge_tile(center, shift, m2, count, tile_center, tile_shift, tile_m2, tile_count)
        first += BLOCK_S
    slot = partials + (n * channels + channel) * parts + part
    tl.store(slot, center, channel < channels)
    tl.store(slot + rows * parts, shift, channel < channels)
    tl.store(slot + 2 * rows * parts, m2, channel < channels)


@triton.jit
def merge_moments(partials, merged, rows, spatial, parts, chunk, BLOCK_P: tl.constexpr):
    """partials[3, rows, parts] into merged[3, rows], one row per program."""
    row = tl.program_id(0).to(tl.int64)
    center, shift, m2 = _merge_row(partials, row, rows, spatial, parts, chunk, BLOCK_P)
    tl.store(merged + row, center)
    tl.store(merged + row + rows, shift)
    tl.store(merged + row + 2 * rows, m2)


@triton.jit
def forward_apply(
    x, partials, weight, bias, residual, y, mean, rstd, rows, channels, spatial, parts, chunk,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr, EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One tile of y."""
    ACC: tl.constexpr = mean.dtype.element_ty
    tile, block, n, channel, pixel = _last_tile_first(channels, spatial, BLOCK_C, BLOCK_S)
    mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    # Asked for before the merge, which then hides behind the wait.
    values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    row = (n * channels + channel)[:, None]
    present = (channel < channels)[:, None]
    if CHANNELS_LAST:
        center = tl.load(partials + row, present, 0.0)
        shift = tl.load(partials + row + rows, present, 0.0)
        m2 = tl.load(partials + row + 2 * rows, present, 0.0)
    else:
        center, shift, m2 = _merge_row(partials, block.to(tl.int64), rows, spatial, parts, chunk, BLOCK_P)
    row_rstd = reciprocal_deviation(m2, spatial, EPS)
    if tile == 0:
        tl.store(mean + row, center + shift, present)
        tl.store(rstd + row, row_rstd, present)
    xhat = ((values - center) - shift) * row_rstd
    _finish_forward(
        xhat, weight, bias, residual, y, n, channel, pixel, mask, channels,
        ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip


@triton.jit
def apply_given(
    x, weight, bias, y, mean, rstd, channels, spatial,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One tile of y with statistics that another kernel gathered."""
    ACC: tl.constexpr = mean.dtype.element_ty
    _, _, n, channel, pixel = _last_tile_first(channels, spatial, BLOCK_C, BLOCK_S)
    mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    xhat = _normalised(x, mean, rstd, n, channel, pixel, mask, channels, CHANNELS_LAST, ALIGN, ACC)
    _finish_forward(
        xhat, weight, bias, None, y, n, channel, pixel, mask, channels,
        ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip


# ---- backward kernels ------------------------------------------------------------------------------------------------


@triton.jit
def backward_resident(
    grad, x, weight, bias, y, mean, rstd, dx, dresidual, sums, rows, channels, spatial,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Whole rows in registers: their shares of dbias and dweight into sums[2, rows], dresidual and dx."""
    ACC: tl.constexpr = mean.dtype.element_ty
    n, channel = batch_and_channels(tl.program_id(0), channels, BLOCK_C)
    pixel = tl.arange(0, BLOCK_S).to(tl.int64)
    mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    g, xhat = _gradient_and_xhat(
        grad, x, weight, bias, y, mean, rstd, n, channel, pixel, mask, channels,
        ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip
    if dresidual is not None:
        tl.store(pointers(dresidual, n, channel, pixel, CHANNELS_LAST, ALIGN), g, mask)
    sum_g = tl.sum(g, 1)
    sum_gx = tl.sum(g * xhat, 1)
    row = n * channels + channel
    tl.store(sums + row, sum_g, channel < channels)
    tl.store(sums + row + rows, sum_gx, channel < channels)
    _finish_backward(
        g, xhat, sum_g[:, None], sum_gx[:, None], weight, rstd, dx, n, channel, pixel, mask, channels, spatial,
        CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip


@triton.jit
def backward_sums(
    grad, x, weight, bias, y, mean, rstd, dresidual, partials, rows, channels, spatial, parts, chunk,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The shares of one part of the pixels in dbias and dweight into partials[2, rows, parts], and dresidual."""
    ACC: tl.constexpr = partials.dtype.element_ty
    part = (tl.program_id(0) % parts).to(tl.int64)
    n, channel = batch_and_channels(tl.program_id(0) // parts, channels, BLOCK_C)
    first = part * chunk
    end = tl.minimum(first + chunk, spatial)
    sum_g = tl.zeros([BLOCK_C], ACC)
    sum_gx = tl.zeros([BLOCK_C], ACC)
    while first < end:
        pixel = first + tl.arange(0, BLOCK_S)
        mask = tile_mask(channel, pixel, channels, end, CHANNELS_LAST, ALIGN)
        g, xhat = _gradient_and_xhat(
            grad, x, weight, bias, y, mean, rstd, n, channel, pixel, mask, channels,
            ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
        )  # fmt: skip
        if dresidual is not None:
            tl.store(pointers(dresidual, n, channel, pixel, CHANNELS_LAST, ALIGN), g, mask)
        sum_g += tl.sum(g, 1)
        sum_gx += tl.sum(g * xhat, 1)
        first += BLOCK_S
    slot = partials + (n * channels + channel) * parts + part
    tl.store(slot, sum_g, channel < channels)
    tl.store(slot + rows * parts, sum_gx, channel < channels)


@triton.jit
def backward_apply(
    grad, x, weight, bias, y, mean, rstd, partials, dx, rows, channels, spatial, parts,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One tile of dx."""
    ACC: tl.constexpr = partials.dtype.element_ty
    _, block, n, channel, pixel = _last_tile_first(channels, spatial, BLOCK_C, BLOCK_S)
    mask = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    g, xhat = _gradient_and_xhat(
        grad, x, weight, bias, y, mean, rstd, n, channel, pixel, mask, channels,
        ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip
    if CHANNELS_LAST:
        sum_g = per_channel(partials + n * channels, channel, channels, ACC)
        sum_gx = per_channel(partials + n * channels + rows, channel, channels, ACC)
    else:
        part = tl.arange(0, BLOCK_P)
        slot = partials + block.to(tl.int64) * parts + part
        sum_g = tl.sum(tl.load(slot, part < parts, 0.0), 0)
        sum_gx = tl.sum(tl.load(slot + rows * parts, part < parts, 0.0), 0)
    _finish_backward(
        g, xhat, sum_g, sum_gx, weight, rstd, dx, n, channel, pixel, mask, channels, spatial,
        CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip
