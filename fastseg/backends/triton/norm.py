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

The variance is never E[x^2] - E[x]^2. A block takes its mean, then the squares of the deviations from it, and blocks
are merged by Chan's formula. A mean is carried as center + shift, where center is rounded and shift is what the
rounding lost, because with |mean| >> std half a unit in the last place of the mean is visible in x - mean.

Kernels work on tiles of [channels, pixels]. Offsets are 64-bit.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastseg.backends.views import ACTIVATION, Layout, as_layout, layout_of, strides3

RELU = tl.constexpr(ACTIVATION["relu"])
LEAKY_RELU = tl.constexpr(ACTIVATION["leaky_relu"])

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


class Strided(NamedTuple):
    """A tensor as kernels take it. The outer axis is channels in the rows layout and pixels in channels-last."""

    data: Tensor
    batch: int
    outer: int


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


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


def alignment(inner: int, *views: Strided | None) -> int:
    """The largest power of two up to 16 that divides the inner axis and all strides, and so the start of every run.

    Triton knows of multiples of 16 by itself; with 4 or 8, accesses can be 16 bytes wide just as well.
    """
    return math.gcd(16, inner, *(stride for view in views if view for stride in (view.batch, view.outer)))


# ---- device functions ------------------------------------------------------------------------------------------------


@triton.jit
def _batch_and_channels(block, channels, BLOCK_C: tl.constexpr):
    blocks = tl.cdiv(channels, BLOCK_C)
    channel = (block % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    return (block // blocks).to(tl.int64), channel.to(tl.int64)


@triton.jit
def _mask(channel, pixel, channels, spatial, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr):
    # x // ALIGN * ALIGN is x, here and below; written so, the compiler knows it for a multiple.
    if CHANNELS_LAST:
        channels = channels // ALIGN * ALIGN
    else:
        spatial = spatial // ALIGN * ALIGN
    return (channel < channels)[:, None] & (pixel < spatial)[None, :]


@triton.jit
def _pointers(t, n, channel, pixel, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr):
    if CHANNELS_LAST:
        outer = pixel[None, :]
        inner = channel[:, None]
    else:
        outer = channel[:, None]
        inner = pixel[None, :]
    return t.data + (n * (t.batch // ALIGN * ALIGN) + outer * (t.outer // ALIGN * ALIGN) + inner)


@triton.jit
def _per_channel(vector, channel, channels, ACC: tl.constexpr):
    return tl.load(vector + channel, channel < channels, 0.0).to(ACC)[:, None]


@triton.jit
def _moments(values, mask, count):
    """center, shift and M2 (the sum of squared deviations) along the pixels, and the deviations from center."""
    center = tl.sum(values, 1) / count
    deviation = tl.where(mask, values - center[:, None], 0.0)
    shift = tl.sum(deviation, 1) / count
    m2 = tl.sum(deviation * deviation, 1) - count * shift * shift
    return center, shift, m2, deviation


@triton.jit
def _merge_parts(partials, row, rows, spatial, parts, chunk, BLOCK_P: tl.constexpr):
    """center, shift and M2 of one whole row, as scalars, from those of its parts."""
    part = tl.arange(0, BLOCK_P).to(tl.int64)
    mask = part < parts
    slot = partials + row * parts + part
    part_center = tl.load(slot, mask, 0.0)
    part_shift = tl.load(slot + rows * parts, mask, 0.0)
    part_m2 = tl.load(slot + 2 * rows * parts, mask, 0.0)

    count = tl.maximum(tl.minimum(spatial - part * chunk, chunk), 0).to(partials.dtype.element_ty)
    center = tl.sum(part_center * count, 0) / spatial
    deviation = tl.where(mask, (part_center - center) + part_shift, 0.0)
    shift = tl.sum(deviation * count, 0) / spatial
    m2 = tl.sum(part_m2 + deviation * deviation * count, 0) - shift * shift * spatial
    return center, shift, m2


@triton.jit
def _rstd(m2, spatial, EPS: tl.constexpr):
    variance = m2 / spatial
    # Rounding can leave a constant row a hair below zero. Written so that NaN stays.
    return tl.rsqrt(tl.where(variance < 0, 0.0, variance) + EPS)


@triton.jit
def _affine(xhat, weight, bias, channel, channels, ACC: tl.constexpr):
    z = xhat
    if weight is not None:
        z = z * _per_channel(weight, channel, channels, ACC)
    if bias is not None:
        z = z + _per_channel(bias, channel, channels, ACC)
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
        z += tl.load(_pointers(residual, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    tl.store(_pointers(y, n, channel, pixel, CHANNELS_LAST, ALIGN), _activate(z, z, ACTIVATION, NEGATIVE_SLOPE), mask)


@triton.jit
def _gradient_and_xhat(
    grad, x, weight, bias, y, mean, rstd, n, channel, pixel, mask, channels,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The gradient before the activation (zero where masked) and the normalised x."""
    g = tl.load(_pointers(grad, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    values = tl.load(_pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    row_mean = _per_channel(mean + n * channels, channel, channels, ACC)
    xhat = (values - row_mean) * _per_channel(rstd + n * channels, channel, channels, ACC)
    if y is not None:
        z = tl.load(_pointers(y, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    else:
        z = _affine(xhat, weight, bias, channel, channels, ACC)
    return _activate(g, z, ACTIVATION, NEGATIVE_SLOPE), xhat


@triton.jit
def _finish_backward(
    g, xhat, sum_g, sum_gx, weight, rstd, dx, n, channel, pixel, mask, channels, spatial,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    scale = _per_channel(rstd + n * channels, channel, channels, ACC)
    if weight is not None:
        scale = scale * _per_channel(weight, channel, channels, ACC)
    value = (g - sum_g / spatial - xhat * (sum_gx / spatial)) * scale
    tl.store(_pointers(dx, n, channel, pixel, CHANNELS_LAST, ALIGN), value, mask)


# ---- forward kernels -------------------------------------------------------------------------------------------------


@triton.jit
def forward_resident(
    x, weight, bias, residual, y, mean, rstd, channels, spatial,
    ACTIVATION: tl.constexpr, NEGATIVE_SLOPE: tl.constexpr, EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Whole rows in registers: the statistics, then y."""
    ACC: tl.constexpr = mean.dtype.element_ty
    n, channel = _batch_and_channels(tl.program_id(0), channels, BLOCK_C)
    pixel = tl.arange(0, BLOCK_S).to(tl.int64)
    mask = _mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    values = tl.load(_pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    center, shift, m2, deviation = _moments(values, mask, spatial)
    row_rstd = _rstd(m2, spatial, EPS)
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
    n, channel = _batch_and_channels(tl.program_id(0) // parts, channels, BLOCK_C)
    first = part * chunk
    end = tl.minimum(first + chunk, spatial)
    center = tl.zeros([BLOCK_C], ACC)
    shift = tl.zeros([BLOCK_C], ACC)
    m2 = tl.zeros([BLOCK_C], ACC)
    count = tl.zeros([BLOCK_C], ACC)
    while first < end:
        pixel = first + tl.arange(0, BLOCK_S)
        mask = _mask(channel, pixel, channels, end, CHANNELS_LAST, ALIGN)
        values = tl.load(_pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
        tile_count = tl.minimum(end - first, BLOCK_S).to(ACC)
        tile_center, tile_shift, tile_m2, _ = _moments(values, mask, tile_count)
        center = tl.where(count == 0, tile_center, center)
        delta = (tile_center - center) + (tile_shift - shift)
        fraction = tile_count / (count + tile_count)
        shift += delta * fraction
        m2 += tile_m2 + delta * delta * count * fraction
        count += tile_count
        first += BLOCK_S
    slot = partials + (n * channels + channel) * parts + part
    tl.store(slot, center, channel < channels)
    tl.store(slot + rows * parts, shift, channel < channels)
    tl.store(slot + 2 * rows * parts, m2, channel < channels)


@triton.jit
def merge_moments(partials, merged, rows, spatial, parts, chunk, BLOCK_P: tl.constexpr):
    """partials[3, rows, parts] into merged[3, rows], one row per program."""
    row = tl.program_id(0).to(tl.int64)
    center, shift, m2 = _merge_parts(partials, row, rows, spatial, parts, chunk, BLOCK_P)
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
    """One tile of y. The last tile goes first: its x was read last and is still in the cache."""
    ACC: tl.constexpr = mean.dtype.element_ty
    tiles = tl.cdiv(spatial, BLOCK_S)
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    tile = program % tiles
    n, channel = _batch_and_channels(program // tiles, channels, BLOCK_C)
    pixel = tile.to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    mask = _mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    # Asked for before the merge, which then hides behind the wait.
    values = tl.load(_pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), mask, 0.0).to(ACC)
    row = (n * channels + channel)[:, None]
    present = (channel < channels)[:, None]
    if CHANNELS_LAST:
        center = tl.load(partials + row, present, 0.0)
        shift = tl.load(partials + row + rows, present, 0.0)
        m2 = tl.load(partials + row + 2 * rows, present, 0.0)
    else:
        center, shift, m2 = _merge_parts(
            partials, (program // tiles).to(tl.int64), rows, spatial, parts, chunk, BLOCK_P
        )
    row_rstd = _rstd(m2, spatial, EPS)
    if tile == 0:
        tl.store(mean + row, center + shift, present)
        tl.store(rstd + row, row_rstd, present)
    xhat = ((values - center) - shift) * row_rstd
    _finish_forward(
        xhat, weight, bias, residual, y, n, channel, pixel, mask, channels,
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
    n, channel = _batch_and_channels(tl.program_id(0), channels, BLOCK_C)
    pixel = tl.arange(0, BLOCK_S).to(tl.int64)
    mask = _mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    g, xhat = _gradient_and_xhat(
        grad, x, weight, bias, y, mean, rstd, n, channel, pixel, mask, channels,
        ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip
    if dresidual is not None:
        tl.store(_pointers(dresidual, n, channel, pixel, CHANNELS_LAST, ALIGN), g, mask)
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
    n, channel = _batch_and_channels(tl.program_id(0) // parts, channels, BLOCK_C)
    first = part * chunk
    end = tl.minimum(first + chunk, spatial)
    sum_g = tl.zeros([BLOCK_C], ACC)
    sum_gx = tl.zeros([BLOCK_C], ACC)
    while first < end:
        pixel = first + tl.arange(0, BLOCK_S)
        mask = _mask(channel, pixel, channels, end, CHANNELS_LAST, ALIGN)
        g, xhat = _gradient_and_xhat(
            grad, x, weight, bias, y, mean, rstd, n, channel, pixel, mask, channels,
            ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
        )  # fmt: skip
        if dresidual is not None:
            tl.store(_pointers(dresidual, n, channel, pixel, CHANNELS_LAST, ALIGN), g, mask)
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
    """One tile of dx, the last tile first."""
    ACC: tl.constexpr = partials.dtype.element_ty
    tiles = tl.cdiv(spatial, BLOCK_S)
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    n, channel = _batch_and_channels(program // tiles, channels, BLOCK_C)
    pixel = (program % tiles).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    mask = _mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
    g, xhat = _gradient_and_xhat(
        grad, x, weight, bias, y, mean, rstd, n, channel, pixel, mask, channels,
        ACTIVATION, NEGATIVE_SLOPE, CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip
    if CHANNELS_LAST:
        sum_g = _per_channel(partials + n * channels, channel, channels, ACC)
        sum_gx = _per_channel(partials + n * channels + rows, channel, channels, ACC)
    else:
        part = tl.arange(0, BLOCK_P)
        slot = partials + (program // tiles).to(tl.int64) * parts + part
        sum_g = tl.sum(tl.load(slot, part < parts, 0.0), 0)
        sum_gx = tl.sum(tl.load(slot + rows * parts, part < parts, 0.0), 0)
    _finish_backward(
        g, xhat, sum_g, sum_gx, weight, rstd, dx, n, channel, pixel, mask, channels, spatial,
        CHANNELS_LAST, ALIGN, ACC,
    )  # fmt: skip


# ---- launches --------------------------------------------------------------------------------------------------------


def launch(kernel: Any, programs: int, warps: int, *args: Strided | Tensor | int | None, **constants: Any) -> None:
    """Every launch of this module goes through here, so that tests can see which kernels run and with what."""
    kernel[(programs,)](*args, num_warps=warps, **constants)


def _strided(t: Tensor | None, layout: Layout) -> Strided | None:
    if t is None:
        return None
    batch, channel, pixel = strides3(t)
    return Strided(t, batch, channel if layout == "rows" else pixel)


def _in_layout(t: Tensor | None, layout: Layout) -> Strided | None:
    return None if t is None else _strided(as_layout(t, layout), layout)


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


def _dense(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


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
    views = _strided(x, layout), _in_layout(residual, layout), _strided(y, layout)
    source, addend, target = views
    operands = _dense(weight), _dense(bias), addend, target, mean, rstd

    resident = resident_tile(channels, spatial, layout, x.dtype)
    tile = resident or streaming_tile(channels, layout, x.dtype, FORWARD_TILE_BYTES)
    blocks = batch * triton.cdiv(channels, tile.channels)
    shape = _shape(tile, layout, channels, spatial, views)
    epilogue = {"ACTIVATION": ACTIVATION[activation], "NEGATIVE_SLOPE": negative_slope, "EPS": eps}
    with torch.cuda.device_of(x):
        if resident:
            launch(forward_resident, blocks, tile.warps, source, *operands, channels, spatial, **shape, **epilogue)
            return y, mean, rstd
        chunk, parts = split_rows(spatial, tile, layout)
        sizes = rows, channels, spatial, parts, chunk
        partials = mean.new_empty((3, rows, parts))
        launch(forward_moments, blocks * parts, tile.warps, source, partials, *sizes, **shape)
        block = triton.next_power_of_2(parts)
        if layout == "channels_last":
            merged = mean.new_empty((3, rows))
            launch(merge_moments, rows, 4, partials, merged, rows, spatial, parts, chunk, BLOCK_P=block)
            partials, block = merged, 1
        programs = blocks * triton.cdiv(spatial, tile.pixels)
        launch(
            forward_apply, programs, tile.warps, source, partials, *operands, *sizes, BLOCK_P=block, **shape, **epilogue
        )
    return y, mean, rstd


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
        _in_layout(grad, layout),
        _strided(x, layout),
        _in_layout(y, layout),
        _strided(dx, layout),
        _strided(dresidual, layout),
    )
    incoming, source, branch, target, through = views
    weight, bias = _dense(weight), _dense(bias)

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
            launch(backward_resident, blocks, tile.warps, *operands, *outputs, *sizes, **shape, **epilogue)
        else:
            launch(
                backward_sums, blocks * parts, tile.warps,
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
            launch(backward_apply, programs, tile.warps, *operands, sums, target, *sizes, parts, **shape, **epilogue)
    # Two reductions, for outputs of an op must not share memory.
    dbias, dweight = (part.sum((0, 2)) for part in sums.view(2, batch, channels, parts))
    return dx, dweight, dbias, x.new_empty((0,)) if dresidual is None else dresidual
