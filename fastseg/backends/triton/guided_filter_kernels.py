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

# ---- lines and what lies beyond them ---------------------------------------------------------------------------------


@triton.jit
def _period(size, BORDER: tl.constexpr):
    """After how many places a mirrored line begins anew."""
    return 2 * size if BORDER == "reflect" else tl.maximum(2 * size - 2, 1)


@triton.jit
def _pixel_at(place, size, radius, BORDER: tl.constexpr):
    """The pixel at a place from -radius on of the mirrored line; places are pixels where windows are cut."""
    pixel = place
    if BORDER != "truncate":
        period = _period(size, BORDER)
        pixel = (place + (radius // period + 1) * period) % period
        mirror = period - pixel
        if BORDER == "reflect":
            mirror -= 1
        pixel = tl.where(pixel < size, pixel, mirror)
    return pixel


@triton.jit
def _times(pixel, centre, size, radius, BORDER: tl.constexpr):
    """How many times a window's line holds a pixel, one at most ``radius`` from its centre."""
    times = 1
    if BORDER != "truncate":
        period = _period(size, BORDER)
        begin = centre - radius + (radius // period + 2) * period  # whole periods on, to divide positive numbers
        times = (begin + 2 * radius - pixel) // period - (begin - 1 - pixel) // period
        mirror = period - pixel
        if BORDER == "reflect":
            mirror -= 1
        again = (begin + 2 * radius - mirror) // period - (begin - 1 - mirror) // period
        if BORDER == "reflect":
            times += again
        else:
            times += tl.where((pixel > 0) & (pixel < size - 1), again, 0)
    return times


@triton.jit
def _count(centre, size, radius, BORDER: tl.constexpr):
    """How many places the window of a pixel has along one axis."""
    if BORDER == "truncate":
        count = tl.minimum(centre + radius, size - 1) - tl.maximum(centre - radius, 0) + 1
    else:
        count = 2 * radius + 1
    return count


@triton.jit
def _sum_before(place, sums, size, radius, BORDER: tl.constexpr):
    """The sum of a line's places before one, up to a constant; ``sums`` has those of the pixels up to each."""
    if BORDER == "truncate":
        pixels = tl.minimum(tl.maximum(place, 0), size)
        total = tl.load(sums + pixels - 1, pixels > 0, 0.0)
    else:
        period = _period(size, BORDER)
        place += (radius // period + 1) * period
        left = place % period
        line = tl.load(sums + size - 1)
        if BORDER == "reflect":
            whole = 2 * line
            back = 2 * line
            mirror = period - left
        else:
            last = line - tl.load(sums + size - 2, size > 1, 0.0)
            whole = tl.where(size > 1, 2 * line - last - tl.load(sums), line)
            back = 2 * line - last
            mirror = period + 1 - left
        ahead = left <= size
        pixels = tl.where(ahead, left, mirror)
        total = tl.load(sums + pixels - 1, pixels > 0, 0.0)
        total = (place // period) * whole + tl.where(ahead, total, back - total)
    return total


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
def _store_rounded(dst, value, mask):
    if dst.dtype.element_ty == tl.uint8:
        value = tl.minimum(tl.maximum(value, 0.0), 255.0)
        value = (value + 12582912.0) - 12582912.0  # rounds to the nearest (even) number
    tl.store(dst, value.to(dst.dtype.element_ty), mask)


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
        _store_rounded(dst + slice * plane + at[None, :], q, both)
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
    right = _pixel_at(right, width, radius_x, BORDER)
    left = _pixel_at(left, width, radius_x, BORDER)
    complete = (lane >= 2 * radius_x) & (x < width)
    columns = _count(tl.minimum(tl.maximum(x, 0), width - 1), width, radius_x, BORDER)

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
        times = _times(y, first, height, radius_y, BORDER)
        sums, errors = _accumulate(sums, errors, row, times, GUIDES)

    for y in range(first, tl.minimum(first + rows, height)):
        if not HORIZONTAL:
            windows = sums
            count = tl.full([], 1.0, ACC) * _count(y, height, radius_y, BORDER)
        else:
            windows = tl.associative_scan(sums, 1, _add_two if GUIDES == 1 else _add_four)
            count = (columns.to(ACC) * _count(y, height, radius_y, BORDER))[None, :]
        share = 1.0 / count
        means = ()
        for k in tl.static_range(GUIDES + 1):
            means = means + (windows[k] * share,)
        here = y * wide + x
        _finish(means, guide, statistics, dst, slice, here, complete, in_image, plane, ACC, STAGE, GUIDES)

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
        line = _pixel_at(entering, height, radius_y, BORDER) * wide
        new = _differences(
            values, guide, slice, line, right, left, in_rows, in_rows_left, in_image, plane,
            ACC, PRODUCTS, HORIZONTAL, GUIDES,
        )  # fmt: skip
        line = _pixel_at(leaving, height, radius_y, BORDER) * wide
        old = _differences(
            values, guide, slice, line, right, left, out_rows, out_rows_left, in_image, plane,
            ACC, PRODUCTS, HORIZONTAL, GUIDES,
        )  # fmt: skip
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
            share = tl.full([], 1.0, ACC) / _count(tl.minimum(x, width - 1), width, radius, BORDER)
            means = ()
            for k in tl.static_range(GUIDES + 1):
                sums = prefix + k * width
                end = _sum_before(x + radius + 1, sums, width, radius, BORDER)
                total = end - _sum_before(x - radius, sums, width, radius, BORDER)
                means = means + ((total.to(ACC) * share)[None, :],)
            of_slice = tl.full([1, 1], slice, tl.int64)
            _finish(means, colours, of_guide, dst, of_slice, line + x, mask, alone, plane, ACC, STAGE, GUIDES)
        tl.debug_barrier()


# ---- the guide's covariance, and coefficients between samples -------------------------------------------------------


@triton.jit
def _moment(moments, first, second, pixel, mask, plane, eps, GUIDES: tl.constexpr):
    """An element of the guide's covariance, and eps on the diagonal."""
    product = tl.load(moments + (second * (GUIDES + 1) + first) * plane + pixel, mask, 0.0)
    mean = tl.load(moments + (first * (GUIDES + 1) + GUIDES) * plane + pixel, mask, 0.0)
    other = tl.load(moments + (second * (GUIDES + 1) + GUIDES) * plane + pixel, mask, 0.0)
    element = product - mean * other
    if first == second:
        element += eps
    return element


@triton.jit
def factor_covariance(moments, statistics, pixels, eps: tl.float64, GUIDES: tl.constexpr, BLOCK: tl.constexpr):
    """The guide's means, and 1 / D and L of covariance + eps = L D L^T, eliminated in float64.

    Column by column: 1 / d0, l10, l20, 1 / d1, l21, 1 / d2. No pivot is smaller than eps but for rounding, which must
    not turn it to zero.
    """
    blocks = tl.cdiv(pixels, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    plane = tl.full([], pixels, tl.int64)
    moments += image * GUIDES * (GUIDES + 1) * plane
    statistics += image * (GUIDES + GUIDES * (GUIDES + 1) // 2) * plane
    KIND: tl.constexpr = statistics.dtype.element_ty
    for k in tl.static_range(GUIDES):
        mean = tl.load(moments + (k * (GUIDES + 1) + GUIDES) * plane + pixel, mask, 0.0)
        tl.store(statistics + k * plane + pixel, mean.to(KIND), mask)
    eps = tl.full([], eps, tl.float64)
    d0 = 1.0 / tl.maximum(_moment(moments, 0, 0, pixel, mask, plane, eps, GUIDES), eps)
    factors = (d0,)
    if GUIDES == 3:
        c01 = _moment(moments, 0, 1, pixel, mask, plane, eps, GUIDES)
        c02 = _moment(moments, 0, 2, pixel, mask, plane, eps, GUIDES)
        l10 = c01 * d0
        l20 = c02 * d0
        d1 = 1.0 / tl.maximum(_moment(moments, 1, 1, pixel, mask, plane, eps, GUIDES) - l10 * c01, eps)
        rest = _moment(moments, 1, 2, pixel, mask, plane, eps, GUIDES) - l10 * c02
        l21 = rest * d1
        last = _moment(moments, 2, 2, pixel, mask, plane, eps, GUIDES) - l20 * c02 - l21 * rest
        factors = (d0, l10, l20, d1, l21, 1.0 / tl.maximum(last, eps))
    for k in tl.static_range(GUIDES * (GUIDES + 1) // 2):
        tl.store(statistics + (GUIDES + k) * plane + pixel, factors[k].to(KIND), mask)


@triton.jit
def interpolate(
    coefficients, guide, dst, channels, height, width, coarse_height, coarse_width, step,
    GUIDES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The result from coefficients at every ``step``-th pixel: sample i is at pixel i * step, the last one goes on."""
    ACC: tl.constexpr = coefficients.dtype.element_ty
    across = tl.cdiv(width, BLOCK)
    down = tl.cdiv(height, ROWS)
    x = (tl.program_id(0) % across) * BLOCK + tl.arange(0, BLOCK)[None, :]
    y = (tl.program_id(0) // across % down) * ROWS + tl.arange(0, ROWS)[:, None]
    slice = (tl.program_id(0) // across // down).to(tl.int64)
    mask = (x < width) & (y < height)
    wide = tl.full([], width, tl.int64)
    plane = height * wide
    coarse_wide = tl.full([], coarse_width, tl.int64)
    coarse_plane = coarse_height * coarse_wide
    dst += slice * plane
    guide += slice // channels * GUIDES * plane
    coefficients += slice * (GUIDES + 1) * coarse_plane
    here = y * wide + x

    above = tl.minimum(y // step, coarse_height - 1)
    before = tl.minimum(x // step, coarse_width - 1)
    down_by = (y - above * step).to(ACC) / step
    right_by = (x - before * step).to(ACC) / step
    below = tl.minimum(above + 1, coarse_height - 1) * coarse_wide
    above = above * coarse_wide
    after = tl.minimum(before + 1, coarse_width - 1)
    q = tl.zeros([ROWS, BLOCK], ACC)
    for k in tl.static_range(GUIDES + 1):
        high = tl.load(coefficients + above + before, mask, 0.0)
        high += right_by * (tl.load(coefficients + above + after, mask, 0.0) - high)
        low = tl.load(coefficients + below + before, mask, 0.0)
        low += right_by * (tl.load(coefficients + below + after, mask, 0.0) - low)
        value = high + down_by * (low - high)
        if k < GUIDES:
            value *= tl.load(guide + here, mask, 0.0)
            guide += plane
        q += value
        coefficients += coarse_plane
    _store_rounded(dst + here, q, mask)
