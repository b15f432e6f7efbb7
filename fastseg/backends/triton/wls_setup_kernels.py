"""Kernels that set a multigrid hierarchy up; wls_setup.py launches them. The mathematics: csrc/cpu/wls_setup.h.

Float32 would lose what holds the matrix away from singular, row sums as small as 1 beside links of 1e4 lambda, if
diagonals were kept. So row sums go from level to level, diagonals are sums, and pivots follow as what a line has beyond
its next link. With e for that excess and l for the link to the pixel before,

    e_i = beyond_i + l e_{i-1} / (e_{i-1} + l) = ((beyond_i + l) e_{i-1} + beyond_i l) / (e_{i-1} + l)

is a fraction of linear maps, four numbers, of which a scan composes any number: again sums of what is positive where
links are.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.wls_kernels import (
    column_of,
    from_lines_beside,
    links_after,
    links_before,
    tile_of_lines,
)

TINY = tl.constexpr(2.2e-16)  # what the guide's logarithm is taken of, beyond the guide
LARGEST = tl.constexpr(3e38)


@triton.jit
def _link(guide, here, there, mask, strength, alpha, eps):
    """lambda / (|log((a + tiny) / (b + tiny))|^alpha + eps), zero where there is no pair.

    The difference is taken before the logarithm, which keeps it exact where a is near b.
    """
    a = tl.load(guide + here, mask, 1.0)
    b = tl.load(guide + there, mask, 1.0)
    low = tl.minimum(a, b)
    ratio = tl.minimum(((tl.maximum(a, b) - low) / (low + TINY)), LARGEST).to(tl.float32)
    # log(1 + ratio): what the sum rounds off is made up for by the factor.
    grown = 1.0 + ratio
    distance = tl.where(grown == 1.0, ratio, tl.log(grown) * (ratio / tl.where(grown == 1.0, 1.0, grown - 1.0)))
    power = tl.where(distance > 1e-36, tl.exp2(alpha * tl.log2(tl.maximum(distance, 1e-36))), 0.0)
    return tl.where(mask, strength / (power + eps), 0.0)


@triton.jit
def weights(guide, next, across, count, width, strength, alpha, eps, BLOCK: tl.constexpr):
    """Links of level 0; its lines are the image's rows."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    mask = i < count
    row_goes_on = mask & ((i + 1) % width != 0)
    tl.store(next + i, _link(guide, i, i + 1, row_goes_on, strength, alpha, eps), mask)
    tl.store(across + i, _link(guide, i, i + width, i + width < count, strength, alpha, eps), mask)


@triton.jit
def _compose_fractions(a1, b1, c1, d1, a2, b2, c2, d2):
    """(a e + b) / (c e + d): the second map after the first."""
    a = a2 * a1 + b2 * c1
    d = c2 * b1 + d2 * d1
    scale = 1.0 / (tl.abs(a) + tl.abs(d))
    return a * scale, (a2 * b1 + b2 * d1) * scale, (c2 * a1 + d2 * c1) * scale, d * scale


@triton.jit
def factor_lines(
    total, next, across, slant, counter, factor, inverse, lines, pixels, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr
):
    """T = L D L' of every line: L's element below the diagonal without the sign, and 1 / D."""
    line, inside = tile_of_lines(tl.program_id(0), lines, 0, 1, BLOCK_L)
    run = tl.arange(0, BLOCK_P).to(tl.int64)[None, :]
    e_before = tl.full([BLOCK_L, 1], 1.0, tl.float32)  # of what is before the first pixel, to which there is no link
    first = 0
    while first < pixels:
        pixel = first + run
        mask = inside & (pixel < pixels)
        here = line * pixels + pixel
        beyond = tl.load(total + here, mask, 1.0)
        beyond += links_before(across, slant, counter, line, pixel, pixels, mask)
        beyond += links_after(across, slant, counter, line, pixel, lines, pixels, mask)
        before = tl.load(next + here - 1, mask & (pixel > 0), 0.0)
        after = tl.load(next + here, mask, 0.0)
        scale = 1.0 / (tl.abs(beyond + before) + tl.abs(before))
        kept = before * scale
        a, b, c, d = tl.associative_scan(((beyond + before) * scale, beyond * kept, scale, kept), 1, _compose_fractions)
        excess = (a * e_before + b) / (c * e_before + d)
        pivot = excess + after
        reciprocal = tl.where(pivot > 0.0, 1.0 / pivot, 0.0)
        tl.store(inverse + here, reciprocal, mask)
        tl.store(factor + here, after * reciprocal, mask)
        e_before = column_of(excess, run, BLOCK_P - 1)
        first += BLOCK_P


@triton.jit
def _compose_linear_3(a1, x1, y1, z1, a2, x2, y2, z2):
    return a2 * a1, a2 * x1 + x2, a2 * y1 + y2, a2 * z1 + z2


@triton.jit
def _store_weights(left_weight, right_weight, loss, here, mask, left, right, lost, to_left, to_right):
    """How what is not lost divides is the mean of two answers: that of the whole line, T weight = links, and that of
    the pixel's own links. Links of further levels may be negative: then the line alone answers."""
    both = to_left + to_right
    usable = (to_left >= 0.0) & (to_right >= 0.0) & (both > 0.0)
    share = (1.0 - lost) / tl.where(usable, both, 1.0)
    tl.store(left_weight + here, tl.where(usable, 0.5 * (left + share * to_left), left), mask)
    tl.store(right_weight + here, tl.where(usable, 0.5 * (right + share * to_right), right), mask)
    tl.store(loss + here, lost, mask)


@triton.jit
def interpolation(
    total, across, slant, counter, factor, inverse, left_weight, right_weight, loss, lines, pixels,
    ONE_BLOCK: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """How odd lines follow the lines before (left) and after (right) them, and how much of a constant they lose:
    T loss = row sums. Lines longer than a block leave their forward sweep in the outputs."""
    line, inside = tile_of_lines(tl.program_id(0), lines, 1, 2, BLOCK_L)
    run = tl.arange(0, BLOCK_P).to(tl.int64)[None, :]
    x = tl.zeros([BLOCK_L, BLOCK_P], tl.float32)
    y = tl.zeros([BLOCK_L, BLOCK_P], tl.float32)
    z = tl.zeros([BLOCK_L, BLOCK_P], tl.float32)
    x_carry = tl.zeros([BLOCK_L, 1], tl.float32)
    y_carry = tl.zeros([BLOCK_L, 1], tl.float32)
    z_carry = tl.zeros([BLOCK_L, 1], tl.float32)
    first = 0
    while first < pixels:
        pixel = first + run
        mask = inside & (pixel < pixels)
        here = line * pixels + pixel
        keep = tl.load(factor + here - 1, mask & (pixel > 0), 0.0)
        x = links_before(across, slant, counter, line, pixel, pixels, mask)
        y = links_after(across, slant, counter, line, pixel, lines, pixels, mask)
        z = tl.load(total + here, mask, 0.0)
        keep, x, y, z = tl.associative_scan((keep, x, y, z), 1, _compose_linear_3)
        if not ONE_BLOCK:
            x += keep * x_carry
            y += keep * y_carry
            z += keep * z_carry
            tl.store(left_weight + here, x, mask)
            tl.store(right_weight + here, y, mask)
            tl.store(loss + here, z, mask)
            x_carry = column_of(x, run, BLOCK_P - 1)
            y_carry = column_of(y, run, BLOCK_P - 1)
            z_carry = column_of(z, run, BLOCK_P - 1)
        first += BLOCK_P

    if not ONE_BLOCK:
        tl.debug_barrier()  # a thread may read what another one wrote
        x_carry = tl.zeros([BLOCK_L, 1], tl.float32)
        y_carry = tl.zeros([BLOCK_L, 1], tl.float32)
        z_carry = tl.zeros([BLOCK_L, 1], tl.float32)
    while first > 0:
        first -= BLOCK_P
        pixel = first + run
        mask = inside & (pixel < pixels)
        here = line * pixels + pixel
        if not ONE_BLOCK:
            x = tl.load(left_weight + here, mask, 0.0)
            y = tl.load(right_weight + here, mask, 0.0)
            z = tl.load(loss + here, mask, 0.0)
        keep = tl.load(factor + here, mask, 0.0)
        own = tl.load(inverse + here, mask, 0.0)
        keep, x, y, z = tl.associative_scan((keep, x * own, y * own, z * own), 1, _compose_linear_3, reverse=True)
        if not ONE_BLOCK:
            x += keep * x_carry
            y += keep * y_carry
            z += keep * z_carry
            x_carry = column_of(x, run, 0)
            y_carry = column_of(y, run, 0)
            z_carry = column_of(z, run, 0)
        to_left = links_before(across, slant, counter, line, pixel, pixels, mask)
        to_right = links_after(across, slant, counter, line, pixel, lines, pixels, mask)
        _store_weights(left_weight, right_weight, loss, here, mask, x, y, z, to_left, to_right)


@triton.jit
def _transposed(to, values, line, pixel, kept, mask):
    """Stores [lines, pixels] as [pixels, lines], neighbouring lines beside each other."""
    tl.store(to + tl.trans(pixel * kept + line), tl.trans(values), tl.trans(mask))


@triton.jit
def coarse_matrix(
    total, next, across, slant, counter, left_weight, right_weight, loss,
    next_total, next_next, next_across, next_slant, next_counter, lines, pixels,
    BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """P' A P, on the even lines, transposed: the next level's pixels are this one's lines."""
    kept = (lines + 1) // 2
    across_blocks = tl.cdiv(pixels, BLOCK_P)
    block = tl.program_id(0).to(tl.int64)
    coarse = (block // across_blocks * BLOCK_L + tl.arange(0, BLOCK_L))[:, None]
    pixel = (block % across_blocks * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    line = 2 * coarse
    mask = (line < lines) & (pixel < pixels)
    here = line * pixels + pixel
    goes_on = pixel + 1 < pixels

    # Row sums: what odd lines lose, even lines take over through their links.
    sums = tl.load(total + here, mask, 0.0)
    sums += from_lines_beside(across, slant, counter, loss, line, pixel, lines, pixels, mask)

    # Through the odd line after this one, to this one (its left) and to the next even one (its right).
    odd = mask & (line + 1 < lines)
    right = mask & (line + 2 < lines)
    at = here + pixels
    l = tl.load(left_weight + at, odd, 0.0)  # noqa: E741 (left and right, here and at the next pixel)
    r = tl.load(right_weight + at, odd, 0.0)
    l_on = tl.load(left_weight + at + 1, odd & goes_on, 0.0)
    r_on = tl.load(right_weight + at + 1, odd & goes_on, 0.0)
    link = tl.load(next + at, odd & goes_on, 0.0)
    down = tl.load(next + here, mask & goes_on, 0.0) + l * link * l_on
    down_right = l * link * r_on
    down_left = r * link * l_on
    if slant is not None:
        # Links of the odd line's pixel to the left one below, and of the one below to the left one beside it.
        left_down = tl.load(counter + here, odd & goes_on, 0.0)
        left_up = tl.load(slant + here, odd & goes_on, 0.0)
        right_down = tl.load(slant + at, right & goes_on, 0.0)
        right_up = tl.load(counter + at, right & goes_on, 0.0)
        down += l * left_down + left_up * l_on
        down_right += l * right_down + left_up * r_on
        down_left += r * left_down + right_up * l_on

    to_left = tl.load(across + here, odd, 0.0)
    to_right = tl.load(across + at, right, 0.0)
    diagonal = tl.load(total + at, odd, 0.0) + link + tl.load(next + at - 1, odd & (pixel > 0), 0.0)
    diagonal += links_before(across, slant, counter, line + 1, pixel, pixels, odd)
    diagonal += links_after(across, slant, counter, line + 1, pixel, lines, pixels, odd)
    beside = l * to_right + to_left * r - l * diagonal * r

    # Through the odd line before this one, of which this one is the right one.
    odd = mask & (line > 0)
    at = here - pixels
    r = tl.load(right_weight + at, odd, 0.0)
    r_on = tl.load(right_weight + at + 1, odd & goes_on, 0.0)
    down += r * tl.load(next + at, odd & goes_on, 0.0) * r_on
    if slant is not None:
        down += r * tl.load(slant + at, odd & goes_on, 0.0) + tl.load(counter + at, odd & goes_on, 0.0) * r_on

    _transposed(next_total, sums, coarse, pixel, kept, mask)
    _transposed(next_next, beside, coarse, pixel, kept, mask)
    _transposed(next_across, down, coarse, pixel, kept, mask)
    _transposed(next_slant, down_right, coarse, pixel, kept, mask)
    _transposed(next_counter, down_left, coarse, pixel, kept, mask)
