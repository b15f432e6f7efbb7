"""Kernels of the depthwise family; depthwise.py launches them and says what they share.

A program takes tiles of [channels, lanes]. A lane is a column of ROWS pixels along the height, each with a sum of its
own; lanes are numbered along the width first. Positions within an image are 32-bit wherever these suffice (INDEX),
offsets into memory 64-bit.

An axis is a constant (kernel, stride, padding, dilation), so that taps unroll and which line of the source serves which
row with which tap is known while compiling. Where taps are too many to unroll, a step of a loop takes one.
"""

# Device functions are written in Triton's language, which has no types for mypy to check, and tuples that grow;
# these it joins with +, it has no stars.
# mypy: disable-error-code="no-untyped-def, no-redef, assignment"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.moments import merge_parts, merge_tile, reciprocal_deviation
from fastseg.backends.triton.tensors import batch_and_channels, per_channel, pointers, tile_mask

# ---- what is known while compiling -----------------------------------------------------------------------------------


@triton.constexpr_function
def tap_of(line, row, axis, transposed):
    """The tap with which a line of the source serves a row of targets, or -1. Both are counted from the lane's first.

    Transposed, rows start at a multiple of the stride: then every lane finds the same lines for the same rows.
    """
    kernel, stride, padding, dilation = axis
    reach = row + padding % stride - line * stride if transposed else line - row * stride
    tap, rest = divmod(reach, dilation)
    return tap if rest == 0 and 0 <= tap < kernel else -1


@triton.constexpr_function
def row_of(line, tap, axis, rows):
    """Forward: the row that a line of the source serves with a tap, or -1."""
    row, rest = divmod(line - tap * axis[3], axis[1])
    return row if rest == 0 and 0 <= row < rows else -1


@triton.constexpr_function
def window_of(axis, unrolled, transposed):
    """The axis as one step sees it: all taps, or one, and transposed one that some lanes take and some do not."""
    return axis if unrolled else (1, 1 if transposed else axis[1], 0, 1)


@triton.constexpr_function
def lines_of(rows, axis, transposed):
    """The lines of the source that serve any of a lane's rows, in order."""
    kernel, stride, padding, dilation = axis
    lines = set()
    for row in range(rows):
        for tap in range(kernel):
            if not transposed:
                lines.add(row * stride + tap * dilation)
            elif (row + padding % stride - tap * dilation) % stride == 0:
                lines.add((row + padding % stride - tap * dilation) // stride)
    return tuple(sorted(lines))


# ---- device functions ------------------------------------------------------------------------------------------------


@triton.jit
def _origin(target, AXIS: tl.constexpr, TRANSPOSED: tl.constexpr):
    """The source of a target's first tap; transposed also what is left of the division by the stride."""
    if TRANSPOSED:
        return (target + AXIS[2]) // AXIS[1], (target + AXIS[2]) % AXIS[1]
    else:
        return target * AXIS[1] - AXIS[2], 0


@triton.jit
def _shift(tap, AXIS: tl.constexpr, TRANSPOSED: tl.constexpr):
    """How far from the source of the first tap that of another one is."""
    if TRANSPOSED:
        return -(tap * AXIS[3] // AXIS[1])
    else:
        return tap * AXIS[3]


@triton.jit
def _within(position, size):
    return (position >= 0) & (position < size)


@triton.jit
def _reaches(origin, rest, tap, size, AXIS: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Whether a tap finds a pixel of the source."""
    inside = _within(origin + _shift(tap, AXIS, TRANSPOSED), size)
    if TRANSPOSED and AXIS[1] > 1:
        inside = inside & (rest == tap * AXIS[3] % AXIS[1])
    return inside


@triton.jit
def _lanes(size, INDEX: tl.constexpr, FLAT: tl.constexpr, ROWS: tl.constexpr):
    """The number of lanes of an image."""
    lanes = tl.cast(tl.cdiv(size.y, ROWS), INDEX) * size.x
    if not FLAT:
        lanes = lanes * size.z
    return lanes


@triton.jit
def _first_pixel(lane, size, FLAT: tl.constexpr, ROWS: tl.constexpr):
    """z, y and x of a lane's first row."""
    line = lane // size.x
    if FLAT:
        return 0, line * ROWS, lane - line * size.x
    else:
        column = tl.cdiv(size.y, ROWS)
        z = line // column
        return z, (line - z * column) * ROWS, lane - line * size.x


@triton.jit
def _lane_moments(values, heights, count):
    """center, shift and M2 of the first ``heights`` values of each lane, which is also their ``count``."""
    share = 1 / tl.maximum(count, 1)
    total = tl.where(heights > 0, values[0], 0.0)
    for row in tl.static_range(1, len(values)):
        total += tl.where(row < heights, values[row], 0.0)
    center = total * share
    lost = tl.zeros_like(total)
    m2 = tl.zeros_like(total)
    for row in tl.static_range(len(values)):
        deviation = tl.where(row < heights, values[row] - center, 0.0)
        lost += deviation
        m2 += deviation * deviation
    shift = lost * share
    return center, shift, m2 - lost * shift


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def convolve(
    source, weight, bias, target, partials, rows, channels, source_size, target_size, parts, tiles, planes,
    columns,
    DEPTH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TRANSPOSED: tl.constexpr,
    MULTIPLIER: tl.constexpr, FLAT: tl.constexpr, UNROLLED: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Forward: ``channels`` of y, each from one of x. Transposed: ``channels`` of x, each from MULTIPLIER of y.

    Weights are [channels, taps], channels-last [taps, channels]. With partials[4, rows, parts] it leaves there center,
    shift, M2 and the number of the pixels of each part, as they are stored.
    """
    TAPS_Y: tl.constexpr = HEIGHT[0] if UNROLLED else 1
    TAPS: tl.constexpr = DEPTH[0] * HEIGHT[0] * WIDTH[0]
    PLANES: tl.constexpr = DEPTH[0] * HEIGHT[0] // TAPS_Y  # of each input channel
    WINDOW: tl.constexpr = window_of(HEIGHT, UNROLLED, TRANSPOSED)
    LINES: tl.constexpr = lines_of(ROWS, WINDOW, TRANSPOSED)

    part = tl.program_id(0) % parts
    n, channel = batch_and_channels(tl.program_id(0) // parts, channels, BLOCK_C)
    lanes = _lanes(target_size, INDEX, FLAT, ROWS)
    filters = channels
    pixel_stride, filter_stride, tap_stride = 1, TAPS, 1
    if CHANNELS_LAST:
        filters = channels // ALIGN * ALIGN  # so written, the compiler knows it for a multiple
        pixel_stride, filter_stride, tap_stride = source.outer // ALIGN * ALIGN, 1, filters
    present = (channel < filters)[:, None]
    if partials is not None:
        center = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        shift, m2 = center, center
        count = tl.zeros([1, BLOCK_P], ACC)
    for tile in range(part * tiles, tl.minimum(part * tiles + tiles, tl.cdiv(lanes, BLOCK_P))):
        lane = tl.cast(tile, INDEX) * BLOCK_P + tl.arange(0, BLOCK_P)
        z, y, x = _first_pixel(lane, target_size, FLAT, ROWS)
        source_z, rest_z = _origin(z, DEPTH, TRANSPOSED)
        source_y, rest_y = _origin(y, HEIGHT, TRANSPOSED)
        source_x, rest_x = _origin(x, WIDTH, TRANSPOSED)
        at = ((source_z * source_size.y + source_y) * source_size.x + source_x).to(tl.int64)

        total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        if bias is not None:
            total += per_channel(bias, channel, channels, ACC)
        totals = (total,) * ROWS
        for plane in range(planes):
            if MULTIPLIER == 1:
                source_channel, filter_ = channel, channel
            elif TRANSPOSED:
                source_channel = channel * MULTIPLIER + plane // PLANES
                filter_ = source_channel
            else:
                source_channel, filter_ = channel // MULTIPLIER, channel
            kz = plane // (HEIGHT[0] // TAPS_Y) % DEPTH[0]
            ky = plane % (HEIGHT[0] // TAPS_Y)
            inside = lane < lanes
            if not FLAT:
                inside &= _reaches(source_z, rest_z, kz, source_size.z, DEPTH, TRANSPOSED)
            if TRANSPOSED and HEIGHT[1] > 1 and not UNROLLED:
                inside &= _reaches(source_y, rest_y, ky, source_size.y, HEIGHT, TRANSPOSED)
            step_z = tl.cast(_shift(kz, DEPTH, TRANSPOSED), tl.int64)
            step_y = _shift(ky, HEIGHT, TRANSPOSED)
            first = pointers(source, n, source_channel, at, CHANNELS_LAST, ALIGN)
            first += (step_z * source_size.y + step_y) * source_size.x * pixel_stride
            weights_at = weight + filter_ * filter_stride + (kz * HEIGHT[0] + ky) * WIDTH[0] * tap_stride
            for kx in range(columns):
                weights = ()
                for tap in tl.static_range(TAPS_Y):
                    w = tl.load(weights_at + (tap * WIDTH[0] + kx) * tap_stride, channel < filters, 0.0)
                    weights += (w.to(ACC)[:, None],)
                step_x = _shift(kx, WIDTH, TRANSPOSED) * pixel_stride
                inside_x = inside & _reaches(source_x, rest_x, kx, source_size.x, WIDTH, TRANSPOSED)
                for i in tl.static_range(len(LINES)):
                    found = inside_x & _within(source_y + step_y + LINES[i], source_size.y)
                    away = tl.cast(LINES[i], tl.int64) * source_size.x * pixel_stride
                    values = tl.load(first + away + step_x, present & found[None, :], 0.0).to(ACC)
                    for row in tl.static_range(ROWS):
                        if tap_of(LINES[i], row, WINDOW, TRANSPOSED) >= 0:
                            total = totals[row] + values * weights[tap_of(LINES[i], row, WINDOW, TRANSPOSED)]
                            totals = totals[:row] + (total,) + totals[row + 1 :]  # noqa: RUF005

        pixel = ((tl.cast(z, INDEX) * target_size.y + y) * target_size.x + x).to(tl.int64)
        heights = tl.where(lane < lanes, tl.minimum(target_size.y - y, ROWS), 0)[None, :]
        stored = ()
        for row in tl.static_range(ROWS):
            value = totals[row].to(target.data.dtype.element_ty)
            place = pointers(target, n, channel, pixel + row * target_size.x, CHANNELS_LAST, ALIGN)
            tl.store(place, value, present & (row < heights))
            stored += (value.to(ACC),)
        if partials is not None:
            tile_count = heights.to(ACC)
            tile_center, tile_shift, tile_m2 = _lane_moments(stored, heights, tile_count)
            center, shift, m2, count = merge_tile(
                center, shift, m2, count, tile_center, tile_shift, tile_m2, tile_count
            )
    if partials is not None:
        part_count = tl.sum(count, 1)
        part_center, part_shift, part_m2 = merge_parts(center, shift, m2, count, part_count, 1)
        slot = partials + (n * channels + channel) * parts + part
        tl.store(slot, part_center, channel < channels)
        tl.store(slot + rows * parts, part_shift, channel < channels)
        tl.store(slot + 2 * rows * parts, part_m2, channel < channels)
        tl.store(slot + 3 * rows * parts, part_count, channel < channels)


@triton.jit
def merge_statistics(partials, mean, rstd, rows, pixels, parts, EPS: tl.constexpr, BLOCK_P: tl.constexpr):
    """mean and rstd of one row per program, from partials[4, rows, parts]."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK_P)
    slot = partials + row * parts + part
    part_center = tl.load(slot, part < parts, 0.0)
    part_shift = tl.load(slot + rows * parts, part < parts, 0.0)
    part_m2 = tl.load(slot + 2 * rows * parts, part < parts, 0.0)
    count = tl.load(slot + 3 * rows * parts, part < parts, 0.0)
    center, shift, m2 = merge_parts(part_center, part_shift, part_m2, count, pixels, 0)
    tl.store(mean + row, center + shift)
    tl.store(rstd + row, reciprocal_deviation(m2, pixels, EPS))


@triton.jit
def correlate(
    grad, source, partials, channels, source_size, target_size, parts, tiles,
    DEPTH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr,
    MULTIPLIER: tl.constexpr, FLAT: tl.constexpr, INDEX: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The sums of TAPS_Y by TAPS_X taps over one part of a sample's pixels, to partials[batch, parts, channels, taps].

    ROWS divides the height of y: a row below it would multiply by zero what may be infinite.
    """
    ACC: tl.constexpr = partials.dtype.element_ty
    TAPS: tl.constexpr = DEPTH[0] * HEIGHT[0] * WIDTH[0]
    GROUPS: tl.constexpr = TAPS // (TAPS_Y * TAPS_X)
    WINDOW: tl.constexpr = (TAPS_Y, HEIGHT[1], HEIGHT[2], HEIGHT[3])
    LINES: tl.constexpr = lines_of(ROWS, WINDOW, False)

    # Groups of taps read the same pixels: they run at about the same time.
    group = tl.program_id(0) % GROUPS
    part = tl.program_id(0) // GROUPS % parts
    n, channel = batch_and_channels(tl.program_id(0) // GROUPS // parts, channels, BLOCK_C)
    kx = group % (WIDTH[0] // TAPS_X) * TAPS_X
    ky = group // (WIDTH[0] // TAPS_X) % (HEIGHT[0] // TAPS_Y) * TAPS_Y
    kz = group // (WIDTH[0] // TAPS_X) // (HEIGHT[0] // TAPS_Y)
    lanes = _lanes(target_size, INDEX, FLAT, ROWS)
    if CHANNELS_LAST:
        grad_stride = grad.outer // ALIGN * ALIGN
        source_stride = source.outer // ALIGN * ALIGN
    else:
        grad_stride = 1
        source_stride = 1

    sums = (tl.zeros([BLOCK_C, BLOCK_P], ACC),) * (TAPS_Y * TAPS_X)
    for tile in range(part * tiles, tl.minimum(part * tiles + tiles, tl.cdiv(lanes, BLOCK_P))):
        lane = tl.cast(tile, INDEX) * BLOCK_P + tl.arange(0, BLOCK_P)
        z, y, x = _first_pixel(lane, target_size, FLAT, ROWS)
        mask = tile_mask(channel, lane, channels, lanes, CHANNELS_LAST, ALIGN)
        pixel = ((tl.cast(z, INDEX) * target_size.y + y) * target_size.x + x).to(tl.int64)
        place = pointers(grad, n, channel, pixel, CHANNELS_LAST, ALIGN)
        grads = ()
        for row in tl.static_range(ROWS):
            grads += (tl.load(place + row * target_size.x * grad_stride, mask, 0.0).to(ACC),)

        source_z = z * DEPTH[1] - DEPTH[2] + kz * DEPTH[3]
        source_y = y * HEIGHT[1] - HEIGHT[2] + ky * HEIGHT[3]
        source_x = x * WIDTH[1] - WIDTH[2] + kx * WIDTH[3]
        at = ((tl.cast(source_z, INDEX) * source_size.y + source_y) * source_size.x + source_x).to(tl.int64)
        first = pointers(source, n, channel // MULTIPLIER, at, CHANNELS_LAST, ALIGN)
        if not FLAT:
            mask = mask & _within(source_z, source_size.z)[None, :]
        for column in tl.static_range(TAPS_X):
            inside_x = mask & _within(source_x + column * WIDTH[3], source_size.x)[None, :]
            for i in tl.static_range(len(LINES)):
                inside = inside_x & _within(source_y + LINES[i], source_size.y)[None, :]
                row_shift = tl.cast(LINES[i], tl.int64) * source_size.x
                values = tl.load(first + (row_shift + column * WIDTH[3]) * source_stride, inside, 0.0).to(ACC)
                for tap in tl.static_range(TAPS_Y):
                    if row_of(LINES[i], tap, WINDOW, ROWS) >= 0:
                        total = sums[tap * TAPS_X + column] + grads[row_of(LINES[i], tap, WINDOW, ROWS)] * values
                        sums = sums[: tap * TAPS_X + column] + (total,) + sums[tap * TAPS_X + column + 1 :]  # noqa: RUF005

    filter_ = ((n * parts + part) * channels + channel) * TAPS
    for tap in tl.static_range(TAPS_Y):
        for column in tl.static_range(TAPS_X):
            k = (kz * HEIGHT[0] + ky + tap) * WIDTH[0] + kx + column
            tl.store(partials + filter_ + k, tl.sum(sums[tap * TAPS_X + column], 1), channel < channels)
