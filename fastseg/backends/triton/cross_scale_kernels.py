"""The kernels of cross-scale aggregation; cross_scale.py launches them and says how much they move.

The combination is a chain of averages of two, from the coarsest level on (csrc/cpu/cross_scale_levels.h has the same):

    q = 1, u = C_{S-1}, then for s = S-2 ... 0:    q = 1 + lambda q / (lambda + q),    u += (C_s - u) / q
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _next_pivot(q, lambda_):
    return 1.0 + q * (lambda_ / (lambda_ + q))


@triton.jit
def _store_checked(result, offset, u, mask, finite):
    tl.store(result + offset, u.to(result.dtype.element_ty), mask)
    # Zero times infinity or NaN is no zero. Whoever finds one writes the same.
    tl.store(finite + tl.zeros_like(offset), tl.zeros_like(offset).to(tl.uint8), mask & (u * 0.0 != 0.0))


@triton.jit
def combine_full_size(
    costs, result, finite, elements, lambda_: tl.float64,
    LEVELS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some elements, which all levels have at the same place."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < elements
    lambda_ = tl.full([], lambda_, tl.float64)
    q = tl.full([], 1.0, tl.float64)
    u = tl.load(costs[LEVELS - 1] + offset, mask, 0.0).to(ACC)
    for s in tl.static_range(LEVELS - 2, -1, -1):
        q = _next_pivot(q, lambda_)
        u += (tl.load(costs[s] + offset, mask, 0.0).to(ACC) - u) * (1.0 / q).to(ACC)
    _store_checked(result, offset, u, mask, finite)


@triton.jit
def _halved(value, TIMES: tl.constexpr):
    """Over 2^TIMES and rounded up, negative numbers too."""
    return (value + ((1 << TIMES) - 1)) >> TIMES


@triton.jit
def combine_pyramid(
    costs, disparities, result, finite, rows, height, width, min_disparity, lambda_: tl.float64,
    LEVELS: tl.constexpr, ACC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Some rows of the result, or a part of one; rows count over volumes, disparities and lines."""
    blocks = tl.cdiv(width, BLOCK_X)
    x = (tl.program_id(0) % blocks) * BLOCK_X + tl.arange(0, BLOCK_X)
    row = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask = (row < rows)[:, None] & (x < width)[None, :]
    y = row % height
    volume = row // height // disparities[0]
    disparity = row // height % disparities[0] + min_disparity
    lambda_ = tl.full([], lambda_, tl.float64)
    q = tl.full([], 1.0, tl.float64)
    u = tl.zeros([BLOCK_R, BLOCK_X], ACC)
    for s in tl.static_range(LEVELS - 1, -1, -1):
        place = _halved(disparity, s) - _halved(min_disparity, s)
        line = (volume * disparities[s] + place) * _halved(height, s) + (y >> s)
        cost = tl.load(costs[s] + line[:, None] * _halved(width, s) + (x >> s)[None, :], mask, 0.0).to(ACC)
        if s == LEVELS - 1:
            u = cost
        else:
            q = _next_pivot(q, lambda_)
            u += (cost - u) * (1.0 / q).to(ACC)
    _store_checked(result, row[:, None] * width + x[None, :], u, mask, finite)


@triton.jit
def spread_full_size(
    grad, gradients, elements, lambda_: tl.float64,
    LEVELS: tl.constexpr, WANTED: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some elements of the gradients of those levels s whose bit 1 << s is set in WANTED."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < elements
    g = tl.load(grad + offset, mask, 0.0).to(ACC)
    for s in tl.static_range(LEVELS):
        if (WANTED >> s) & 1:
            scaled = g * _weight(lambda_, s, LEVELS).to(ACC)
            tl.store(gradients[s] + offset, scaled.to(gradients[s].dtype.element_ty), mask)


@triton.jit
def _weight(lambda_, LEVEL: tl.constexpr, LEVELS: tl.constexpr):
    """What the result has of a level: 1 / q_0, and for each level on the way lambda / (lambda + q)."""
    lambda_ = tl.full([], lambda_, tl.float64)
    q = tl.full([], 1.0, tl.float64)
    weight = tl.full([], 1.0, tl.float64)
    for s in tl.static_range(LEVELS - 1, 0, -1):  # q is that of level s
        if s <= LEVEL:
            weight *= lambda_ / (lambda_ + q)
        q = _next_pivot(q, lambda_)
    return weight / q


@triton.jit
def spread_pyramid(
    sums, gradient, next_sums, rows, disparities, used, height, width, min_disparity, lambda_: tl.float64,
    LEVEL: tl.constexpr, LEVELS: tl.constexpr, WANTED: tl.constexpr, GATHERS: tl.constexpr, ACC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """The gradient of one level, and what the next one's elements gather from it: 2 x 2 x 2 each.

    ``sums`` has the ``used`` disparities that are looked up, ``gradient`` has ``disparities``. Programs take rows of
    the next level, pixels in pairs.
    """
    next_width = _halved(width, 1)
    next_height = _halved(height, 1)
    blocks = tl.cdiv(next_width, BLOCK_X)
    pair = (tl.program_id(0) % blocks) * BLOCK_X + tl.arange(0, BLOCK_X)
    row = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    x = 2 * pair[None, :, None] + tl.arange(0, 2)[None, None, :]
    first = _halved(min_disparity, 1)
    next_used = _halved(min_disparity + used - 1, 1) - first + 1
    volume = row // next_height // next_used
    last_child = 2 * (row // next_height % next_used + first) - min_disparity
    weight = _weight(lambda_, LEVEL, LEVELS).to(ACC)
    gathered = tl.zeros([BLOCK_R, BLOCK_X, 2], ACC)
    for child in tl.static_range(4):
        place = last_child - 1 + child // 2
        y = 2 * (row % next_height) + child % 2
        inside = (row < rows) & (place >= 0) & (place < used) & (y < height)
        mask = inside[:, None, None] & (x < width)
        line = (volume * used + place) * height + y
        g = tl.load(sums + line[:, None, None] * width + x, mask, 0.0).to(ACC)
        if WANTED:
            line = (volume * disparities + place) * height + y
            tl.store(gradient + line[:, None, None] * width + x, (g * weight).to(gradient.dtype.element_ty), mask)
        gathered += g
    if GATHERS:
        mask = (row < rows)[:, None] & (pair < next_width)[None, :]
        tl.store(next_sums + row[:, None] * next_width + pair[None, :], tl.sum(gathered, 2), mask)
