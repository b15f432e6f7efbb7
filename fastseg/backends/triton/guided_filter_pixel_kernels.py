"""Kernels of the guided filter that look at single pixels; guided_filter.py launches them."""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def,assignment"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.tensors import store_rounded


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
    store_rounded(dst + here, q, mask)
