"""The kernel of the weighted median; weighted_median.py launches it and says how much it moves.

A median is found by bisection over integers of the same order as the values: a pass adds up the weights of the values
up to a pivot, and finds the values next to it on either side, one of which becomes a bound. After 32 passes at most (64
for float64), usually 10, the bounds meet in the median. csrc/cpu/weighted_median_select.h does the same.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.tensors import store_rounded

LARGEST_EXPONENT = tl.constexpr(1e30)


@triton.jit
def _invert_negative(bits):
    """Bits of numbers to integers of their order, and back."""
    if bits.dtype == tl.int64:
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    else:
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _ordered(value):
    if value.dtype == tl.float64:
        return _invert_negative(value.to(tl.int64, bitcast=True))
    else:
        return _invert_negative(value.to(tl.int32, bitcast=True))


@triton.jit
def _window(
    first, src, guide, weights, y, x, height, width, own, scale_color, scale_space,
    GUIDES: tl.constexpr, RADIUS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Values, exponents and given weights of neighbours ``first`` to ``first`` + BLOCK.

    Beyond the window and the image the value is the pixel's own and weighs nothing.
    """
    SIDE: tl.constexpr = 2 * RADIUS + 1
    ACC: tl.constexpr = scale_color.dtype
    k = first + tl.arange(0, BLOCK)
    dy = k // SIDE - RADIUS
    dx = k % SIDE - RADIUS
    row = y + dy
    column = x + dx
    inside = (k < SIDE * SIDE) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    plane = height.to(tl.int64) * width
    there = row.to(tl.int64) * width + column
    here = y.to(tl.int64) * width + x
    distance = tl.zeros([BLOCK], ACC)
    for channel in tl.static_range(GUIDES):
        colours = guide + channel * plane
        step = tl.load(colours + there, inside, 0.0).to(ACC) - tl.load(colours + here).to(ACC)
        distance += step * step
    exponent = distance * scale_color + (dy * dy + dx * dx).to(ACC) * scale_space
    exponent = tl.where(inside, tl.minimum(exponent, LARGEST_EXPONENT), LARGEST_EXPONENT)
    given = inside.to(ACC)
    if weights is not None:
        given = tl.load(weights + there, inside, 0.0)
    value = tl.where(inside, _ordered(tl.load(src + there, inside, 0.0).to(ACC)), own)
    return value, exponent, given


@triton.jit
def _nearest(exponent, given):
    """The least exponent of a pixel that counts."""
    return tl.min(tl.where(given > 0, exponent, LARGEST_EXPONENT), 0)


@triton.jit
def _weigh(exponent, given, nearest):
    # Only ratios matter: nothing vanishes where all pixels that count are far off. Those that are nearer do not count.
    return given * tl.exp(tl.minimum(nearest - exponent, 0.0))


@triton.jit
def _split(value, weight, pivot, least, most):
    """The weight of the values up to the pivot, the largest of these and the smallest of the others."""
    low = value <= pivot
    up_to = tl.sum(tl.where(low, weight, 0.0), 0)
    return up_to, tl.max(tl.where(low, value, least), 0), tl.min(tl.where(low, most, value), 0)


@triton.jit
def filter_pixels(
    src, guide, weights, pixels, dst, channels, height, width, batch_stride, channel_stride,
    scale_color: tl.float64, scale_space: tl.float64,
    GUIDES: tl.constexpr, RADIUS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One pixel of src: number ``pixels[program]``, or without a list that of the program."""
    ACC: tl.constexpr = tl.float64 if src.dtype.element_ty == tl.float64 else tl.float32
    COUNT: tl.constexpr = (2 * RADIUS + 1) * (2 * RADIUS + 1)
    scale_color = tl.full([], scale_color, ACC)
    scale_space = tl.full([], scale_space, ACC)
    number = tl.program_id(0).to(tl.int64)
    if pixels is not None:
        number = tl.load(pixels + number)
    height = tl.full([], height, tl.int32)
    width = tl.full([], width, tl.int32)
    plane = height.to(tl.int64) * width
    image = number // plane
    batch = image // channels
    y = (number % plane // width).to(tl.int32)
    x = (number % width).to(tl.int32)
    own = _ordered(tl.load(src + number).to(ACC))
    src += image * plane
    guide += batch * GUIDES * plane
    if weights is not None:
        weights += batch * batch_stride + image % channels * channel_stride

    # The first part of the window; the only one, where a block holds it.
    value, exponent, given = _window(
        0, src, guide, weights, y, x, height, width, own, scale_color, scale_space, GUIDES, RADIUS, BLOCK
    )
    nearest = _nearest(exponent, given)
    for first in range(BLOCK, COUNT, BLOCK):
        _, more_exponent, more_given = _window(
            first, src, guide, weights, y, x, height, width, own, scale_color, scale_space, GUIDES, RADIUS, BLOCK
        )
        nearest = tl.minimum(nearest, _nearest(more_exponent, more_given))
    weight = _weigh(exponent, given, nearest)
    total = tl.sum(weight, 0)
    least = tl.min(value, 0)
    most = tl.max(value, 0)
    for first in range(BLOCK, COUNT, BLOCK):
        more_value, more_exponent, more_given = _window(
            first, src, guide, weights, y, x, height, width, own, scale_color, scale_space, GUIDES, RADIUS, BLOCK
        )
        total += tl.sum(_weigh(more_exponent, more_given, nearest), 0)
        least = tl.minimum(least, tl.min(more_value, 0))
        most = tl.maximum(most, tl.max(more_value, 0))

    weighs = total > 0
    half = total * 0.5
    while least < most:
        pivot = (least & most) + ((least ^ most) >> 1)  # halfway, without overflow
        up_to, below, above = _split(value, weight, pivot, least, most)
        for first in range(BLOCK, COUNT, BLOCK):
            more_value, more_exponent, more_given = _window(
                first, src, guide, weights, y, x, height, width, own, scale_color, scale_space, GUIDES, RADIUS, BLOCK
            )
            more_weight = _weigh(more_exponent, more_given, nearest)
            more, lower, higher = _split(more_value, more_weight, pivot, least, most)
            up_to += more
            below = tl.maximum(below, lower)
            above = tl.minimum(above, higher)
        enough = up_to >= half
        least = tl.where(enough, least, above)
        most = tl.where(enough, below, most)

    chosen = _invert_negative(tl.where(weighs, most, own)).to(ACC, bitcast=True)
    store_rounded(dst + number, chosen, None)
