"""The kernels of matching costs and the census; matching_cost.py launches them and says how much they move.

Images are (batch, channels, height, width), dense. What is computed is said in csrc/cpu/matching_cost_census.h and
matching_cost_rows.h: greys are (299 R + 587 G) + 114 B, products exact in float64, rounded to float32, so that every
kernel finds the same order; differences are not divided by what bytes, sums over colours and greys are scaled by, the
factors are.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _grey(image, at, plane, mask, CHANNELS: tl.constexpr):
    first = tl.load(image + at, mask, 0.0).to(tl.float32)
    if CHANNELS == 1:
        return first
    green = tl.load(image + at + plane, mask, 0.0).to(tl.float32).to(tl.float64)
    blue = tl.load(image + at + 2 * plane, mask, 0.0).to(tl.float32).to(tl.float64)
    return ((299.0 * first.to(tl.float64) + 587.0 * green) + 114.0 * blue).to(tl.float32)


@triton.jit
def grey_planes(image, grey, slope, width, plane, pixels, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Greys, and twice their gradients along x, one-sided in the first and the last column."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    at = pixel + pixel // plane * ((CHANNELS - 1) * plane)  # of the first channel
    x = pixel % width
    before = tl.where(x > 0, at - 1, at)
    after = tl.where(x + 1 < width, at + 1, at)
    tl.store(grey + pixel, _grey(image, at, plane, mask, CHANNELS), mask)
    step = _grey(image, after, plane, mask, CHANNELS) - _grey(image, before, plane, mask, CHANNELS)
    tl.store(slope + pixel, tl.where(after - before == 2, step, 2.0 * step), mask)


@triton.jit
def census_words(
    grey, words, height, width, plane, pixels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    image = pixel // plane
    y = pixel % plane // width
    x = pixel % width
    centre = tl.load(grey + pixel, mask, 0.0)
    BITS: tl.constexpr = ROWS * COLUMNS - 1
    for word in tl.static_range(WORDS):
        bits = tl.zeros([BLOCK], tl.int64)
        # A loop, for unrolled altogether the loads in flight would take most registers of a multiprocessor.
        for bit in tl.range(0, BITS - 64 * word if BITS - 64 * word < 64 else 64, loop_unroll_factor=8):
            place = word * 64 + bit + 2 * (word * 64 + bit) // BITS  # the centre has no bit
            row = tl.minimum(tl.maximum(y + (place // COLUMNS - ROWS // 2), 0), height - 1)
            column = tl.minimum(tl.maximum(x + (place % COLUMNS - COLUMNS // 2), 0), width - 1)
            neighbour = tl.load(grey + image * plane + row * width + column, mask, 0.0)
            bits |= (neighbour < centre).to(tl.int64) << bit
        tl.store(words + (image * WORDS + word) * plane + pixel % plane, bits, mask)


@triton.jit
def _count_ones(bits):
    """Of int64: every shift's sign bits are masked away."""
    bits = bits - ((bits >> 1) & 0x5555555555555555)
    bits = (bits & 0x3333333333333333) + ((bits >> 2) & 0x3333333333333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0F
    bits += bits >> 8
    bits += bits >> 16
    bits += bits >> 32
    return (bits & 0xFF).to(tl.float32)


@triton.jit
def cost_volume(
    base, other, slope, other_slope, words, other_words, volume,
    height, width, plane, least, disparities, direction,
    ad_factor, ad_most, gradient_factor, gradient_most, census_factor, outside_colour, outside_slope,
    CHANNELS: tl.constexpr, COLOURS: tl.constexpr, GRADIENT: tl.constexpr, WORDS: tl.constexpr, BITS: tl.constexpr,
    AD_CENSUS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Costs of some pixels of a row for CHUNK disparities. Terms of weight 0 have no COLOURS, GRADIENT or WORDS."""
    blocks = tl.cdiv(width, BLOCK)
    chunks = tl.cdiv(disparities, CHUNK)
    x = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    line = tl.program_id(0) // blocks
    y = (line % height).to(tl.int64)
    first = line // height % chunks * CHUNK
    image = (line // height // chunks).to(tl.int64)
    mask = x < width
    row = y * width
    colours = image * CHANNELS * plane + row
    grey = image * plane + row
    census = image * WORDS * plane + row
    red = tl.zeros([BLOCK], tl.float32)
    green = tl.zeros([BLOCK], tl.float32)
    blue = tl.zeros([BLOCK], tl.float32)
    if COLOURS:
        red = tl.load(base + colours + x, mask, 0.0).to(tl.float32)
        if CHANNELS == 3:
            green = tl.load(base + colours + plane + x, mask, 0.0).to(tl.float32)
            blue = tl.load(base + colours + 2 * plane + x, mask, 0.0).to(tl.float32)
    gradient = tl.zeros([BLOCK], tl.float32)
    if GRADIENT:
        gradient = tl.load(slope + grey + x, mask, 0.0)
    low = tl.zeros([BLOCK], tl.int64)
    high = tl.zeros([BLOCK], tl.int64)
    if WORDS > 0:
        low = tl.load(words + census + x, mask, 0)
    if WORDS > 1:
        high = tl.load(words + census + plane + x, mask, 0)
    for i in range(first, tl.minimum(first + CHUNK, disparities)):
        there = x - direction * (least + i)
        inside = mask & (there >= 0) & (there < width)
        cost = tl.zeros([BLOCK], tl.float32)
        ad = tl.zeros([BLOCK], tl.float32)
        if COLOURS:
            at = other + colours + there
            ad = tl.abs(red - tl.where(inside, tl.load(at, inside, 0.0).to(tl.float32), outside_colour))
            if CHANNELS == 3:
                there_green = tl.load(at + plane, inside, 0.0).to(tl.float32)
                there_blue = tl.load(at + 2 * plane, inside, 0.0).to(tl.float32)
                ad += tl.abs(green - tl.where(inside, there_green, outside_colour))
                ad += tl.abs(blue - tl.where(inside, there_blue, outside_colour))
            if not AD_CENSUS:
                cost += ad_factor * tl.minimum(ad, ad_most)
        if GRADIENT:
            there_slope = tl.where(inside, tl.load(other_slope + grey + there, inside, 0.0), outside_slope)
            cost += gradient_factor * tl.minimum(tl.abs(gradient - there_slope), gradient_most)
        if WORDS > 0:
            ones = _count_ones(low ^ tl.load(other_words + census + there, inside, 0))
            if WORDS > 1:
                ones += _count_ones(high ^ tl.load(other_words + census + plane + there, inside, 0))
            ones = tl.where(inside, ones, BITS)
            if AD_CENSUS:
                cost = 2.0 - tl.exp(ones * census_factor) - tl.exp(ad * ad_factor)
            else:
                cost += census_factor * ones
        to = volume + (image * disparities + i) * plane + row + x
        tl.store(to, cost.to(volume.dtype.element_ty), mask)
