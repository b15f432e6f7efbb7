"""The kernels of the guided filter; guided_filter.py launches them and says how much they move.

A slice has planes that are averaged over windows together: I_1 p, ..., p from the guide and src, or a_1, ..., b from
memory. Windows come from running sums. Down the rows of a strip, each column x keeps

    d(x) = column(x + r) - column(x - r - 1)        column: the sum over a window's rows

to which rows that enter are added, and from which rows that leave are subtracted; along a row, the windows' sums are
the sums of d up to x. Partial sums of d are differences of windows, so that nothing large cancels, but what d has
wrong adds up along the row: additions to it are compensated (Kahan). A tile begins with 2r columns whose windows are
incomplete: there nothing is subtracted, and nothing is kept.

Where windows are too wide for a tile, ``window_means`` averages over rows alone and ``row_windows`` along each row, by
differences of sums in float64. Offsets are 64-bit; coordinates are not.
"""

# Tuples grow by concatenation there, it has no unpacking.
# ruff: noqa: RUF005
# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def,assignment"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.guided_filter_lines import pixel_at, places_of, sum_before, times_held
from fastseg.backends.triton.tensors import store_rounded

# ---- planes ----------------------------------------------------------------------------------------------------------


@triton.jit
def _add_two(a0, a1, b0, b1):
    return a0 + b0, a1 + b1


@triton.jit
def _add_four(a0, a1, a2, a3, b0, b1, b2, b3):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3


@triton.jit
def _row(
    values, guide, slice, at, mask, in_image, plane, ACC: tl.constexpr, PRODUCTS: tl.constexpr, GUIDES: tl.constexpr
):
    """The planes of a row's pixels."""
    both = in_image & mask[None, :]
    planes = ()
    if PRODUCTS:
        p = tl.load(values + slice * plane + at[None, :], both, 0.0).to(ACC)
        for k in tl.static_range(GUIDES):
            planes = planes + (p * tl.load(guide + k * plane + at, mask, 0.0).to(ACC)[None, :],)
        planes = planes + (p,)
    else:
        for k in tl.static_range(GUIDES + 1):
            planes = planes + (tl.load(values + (slice * (GUIDES + 1) + k) * plane + at[None, :], both, 0.0),)
    return planes


@triton.jit
def _differences(
    values, guide, slice, line, right, left, in_right, in_left, in_image, plane,
    ACC: tl.constexpr, PRODUCTS: tl.constexpr, HORIZONTAL: tl.constexpr, GUIDES: tl.constexpr,
):  # fmt: skip
    """What a row whose first pixel is ``line`` has in the columns that come into a window, less those that go."""
    planes = _row(values, guide, slice, line + right, in_right, in_image, plane, ACC, PRODUCTS, GUIDES)
    if HORIZONTAL:
        gone = _row(values, guide, slice, line + left, in_left, in_image, plane, ACC, PRODUCTS, GUIDES)
        kept = planes
        planes = ()
        for k in tl.static_range(GUIDES + 1):
            planes = planes + (kept[k] - gone[k],)
    return planes


@triton.jit
def _accumulate(sums, errors, row, times, GUIDES: tl.constexpr):
    """Sums with a row added so many times, and what they have too much."""
    total = ()
    error = ()
    for k in tl.static_range(GUIDES + 1):
        term = row[k] * times - errors[k]
        added = sums[k] + term
        error = error + ((added - sums[k]) - term,)
        total = total + (added,)
    return total, error


@triton.jit
def _solve(right, factors, at, mask, plane, GUIDES: tl.constexpr):
    """a of (covariance + eps) a = right. Rounding an inverse would cost digits that rounding its factors does not."""
    d0 = tl.load(factors + at, mask, 0.0)[None, :]
    if GUIDES == 1:
        solution = (right[0] * d0,)
    else:
        l10 = tl.load(factors + plane + at, mask, 0.0)[None, :]
        l20 = tl.load(factors + 2 * plane + at, mask, 0.0)[None, :]
        d1 = tl.load(factors + 3 * plane + at, mask, 0.0)[None, :]
        l21 = tl.load(factors + 4 * plane + at, mask, 0.0)[None, :]
        d2 = tl.load(factors + 5 * plane + at, mask, 0.0)[None, :]
        y1 = right[1] - l10 * right[0]
        a2 = (right[2] - l20 * right[0] - l21 * y1) * d2
        a1 = y1 * d1 - l21 * a2
        solution = (right[0] * d0 - l10 * a1 - l20 * a2, a1, a2)
    return solution


@triton.jit
def _finish(
    means, guide, statistics, dst, slice, at, mask, in_image, plane,
    ACC: tl.constexpr, STAGE: tl.constexpr, GUIDES: tl.constexpr,
):  # fmt: skip
    """What becomes of the means over windows: they are stored, or a and b, or the result."""
    both = in_image & mask[None, :]
    if STAGE == "result":
        q = means[GUIDES]
        for k in tl.static_range(GUIDES):
            q += means[k] * tl.load(guide + k * plane + at, mask, 0.0).to(ACC)[None, :]
        store_rounded(dst + slice * plane + at[None, :], q, both)
    else:
        out = means
        if STAGE == "coefficients":
            p = means[GUIDES]
            covariance = ()
            centre = ()
            for k in tl.static_range(GUIDES):
                mean = tl.load(statistics + k * plane + at, mask, 0.0)[None, :]
                covariance = covariance + (means[k] - mean * p,)
                centre = centre + (mean,)
            out = _solve(covariance, statistics + GUIDES * plane, at, mask, plane, GUIDES)
            b = p
            for k in tl.static_range(GUIDES):
                b -= out[k] * centre[k]
            out = out + (b,)
        for k in tl.static_range(GUIDES + 1):
            tl.store(dst + (slice * (GUIDES + 1) + k) * plane + at[None, :], out[k], both)


# ---- means over windows ----------------------------------------------------------------------------------------------


@triton.jit
def window_means(
    values, guide, statistics, dst, channels, height, width, radius_y, radius_x, rows,
    STAGE: tl.constexpr, PRODUCTS: tl.constexpr, HORIZONTAL: tl.constexpr, BORDER: tl.constexpr,
    GUIDES: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some rows of some columns of some slices beside one guide."""
    ACC: tl.constexpr = values.dtype.element_ty if STAGE == "result" else dst.dtype.element_ty
    strips = tl.cdiv(height, rows)
    across = tl.cdiv(width, BLOCK - 2 * radius_x)
    groups = tl.cdiv(channels, SLICES)
    strip = tl.program_id(0) % strips
    part = tl.program_id(0) // strips
    begin = (part % across) * (BLOCK - 2 * radius_x)
    part = part // across
    image = (part // groups).to(tl.int64)
    channel = (part % groups) * SLICES + tl.arange(0, SLICES)[:, None]
    in_image = channel < channels
    slice = image * channels + channel
    wide = tl.full([], width, tl.int64)
    plane = height * wide
    guide += image * GUIDES * plane
    if STAGE == "coefficients":
        statistics += image * (GUIDES + GUIDES * (GUIDES + 1) // 2) * plane

    lane = tl.arange(0, BLOCK)
    x = begin - 2 * radius_x + lane
    right = x + radius_x
    left = right - 2 * radius_x - 1
    in_right = x < width
    in_left = in_right & (lane > 2 * radius_x)
    if BORDER == "truncate":
        in_right = (right >= 0) & (right < width)
        in_left = in_left & (left >= 0)
    right = pixel_at(right, width, radius_x, BORDER)
    left = pixel_at(left, width, radius_x, BORDER)
    complete = (lane >= 2 * radius_x) & (x < width)
    columns = places_of(tl.minimum(tl.maximum(x, 0), width - 1), width, radius_x, BORDER)

    first = strip * rows
    sums = ()
    for _ in tl.static_range(GUIDES + 1):
        sums = sums + (tl.zeros([SLICES, BLOCK], ACC),)
    errors = sums
    for y in range(tl.maximum(first - radius_y, 0), tl.minimum(first + radius_y, height - 1) + 1):
        line = y * wide
        row = _differences(
            values, guide, slice, line, right, left, in_right, in_left, in_image, plane,
            ACC, PRODUCTS, HORIZONTAL, GUIDES,
        )  # fmt: skip
        times = times_held(y, first, height, radius_y, BORDER)
        sums, errors = _accumulate(sums, errors, row, times, GUIDES)

    for y in range(first, tl.minimum(first + rows, height)):
        # What the next row needs is asked for before this row's scan waits, and stores, which loads do not pass.
        entering = y + 1 + radius_y
        leaving = y - radius_y
        in_rows = in_right
        in_rows_left = in_left
        out_rows = in_right
        out_rows_left = in_left
        if BORDER == "truncate":
            in_rows = in_right & (entering < height)
            in_rows_left = in_left & (entering < height)
            out_rows = in_right & (leaving >= 0)
            out_rows_left = in_left & (leaving >= 0)
        line = pixel_at(entering, height, radius_y, BORDER) * wide
        new = _differences(
            values, guide, slice, line, right, left, in_rows, in_rows_left, in_image, plane,
            ACC, PRODUCTS, HORIZONTAL, GUIDES,
        )  # fmt: skip
        line = pixel_at(leaving, height, radius_y, BORDER) * wide
        old = _differences(
            values, guide, slice, line, right, left, out_rows, out_rows_left, in_image, plane,
            ACC, PRODUCTS, HORIZONTAL, GUIDES,
        )  # fmt: skip

        if not HORIZONTAL:
            windows = sums
            count = tl.full([], 1.0, ACC) * places_of(y, height, radius_y, BORDER)
        else:
            windows = tl.associative_scan(sums, 1, _add_two if GUIDES == 1 else _add_four)
            count = (columns.to(ACC) * places_of(y, height, radius_y, BORDER))[None, :]
        share = 1.0 / count
        means = ()
        for k in tl.static_range(GUIDES + 1):
            means = means + (windows[k] * share,)
        here = y * wide + x
        _finish(means, guide, statistics, dst, slice, here, complete, in_image, plane, ACC, STAGE, GUIDES)

        sums, errors = _accumulate(sums, errors, new, 1, GUIDES)
        sums, errors = _accumulate(sums, errors, old, -1, GUIDES)


@triton.jit
def row_windows(
    values, guide, statistics, dst, prefix, channels, height, width, lines, radius,
    STAGE: tl.constexpr, BORDER: tl.constexpr, GUIDES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of planes whose columns are averaged already; ``prefix`` has a row of float64 planes for each program."""
    ACC: tl.constexpr = values.dtype.element_ty
    wide = tl.full([], width, tl.int64)
    plane = height * wide
    prefix += tl.program_id(0).to(tl.int64) * (GUIDES + 1) * width
    lane = tl.arange(0, BLOCK)
    alone = tl.full([1, 1], True, tl.int1)
    for number in range(tl.program_id(0), lines, tl.num_programs(0)):
        slice = tl.full([], number // height, tl.int64)
        line = (number % height) * wide
        for k in tl.static_range(GUIDES + 1):
            carry = tl.full([], 0.0, tl.float64)
            for begin in range(0, width, BLOCK):
                x = begin + lane
                value = tl.load(values + (slice * (GUIDES + 1) + k) * plane + line + x, x < width, 0.0).to(tl.float64)
                tl.store(prefix + k * width + x, carry + tl.cumsum(value, 0), x < width)
                carry += tl.sum(value, 0)
        tl.debug_barrier()  # a thread may read what another one wrote
        image = slice // channels
        colours = guide + image * GUIDES * plane
        of_guide = statistics
        if STAGE == "coefficients":
            of_guide = statistics + image * (GUIDES + GUIDES * (GUIDES + 1) // 2) * plane
        for begin in range(0, width, BLOCK):
            x = begin + lane
            mask = x < width
            share = tl.full([], 1.0, ACC) / places_of(tl.minimum(x, width - 1), width, radius, BORDER)
            means = ()
            for k in tl.static_range(GUIDES + 1):
                sums = prefix + k * width
                end = sum_before(x + radius + 1, sums, width, radius, BORDER)
                total = end - sum_before(x - radius, sums, width, radius, BORDER)
                means = means + ((total.to(ACC) * share)[None, :],)
            of_slice = tl.full([1, 1], slice, tl.int64)
            _finish(means, colours, of_guide, dst, of_slice, line + x, mask, alone, plane, ACC, STAGE, GUIDES)
        tl.debug_barrier()
