"""Kernels of a multigrid cycle and of conjugate gradients around it; wls.py launches them.

Vectors of level 0 are images. Sums go to slots, one of every program, and who needs a sum adds the slots up itself:
that is cheaper than one more launch, and always in the same order.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.wls_kernels import column_of, compose_linear, from_lines_beside, tile_of_lines

# ---- a cycle


@triton.jit
def _right_hand_side(across, slant, counter, factor, source, x, line, pixel, lines, pixels, mask, BESIDE: tl.constexpr):
    """The right-hand side at some pixels, and the factors of those before them."""
    here = line * pixels + pixel
    rhs = tl.load(source + here, mask, 0.0)
    if BESIDE:
        rhs += from_lines_beside(across, slant, counter, x, line, pixel, lines, pixels, mask)
    return tl.load(factor + here - 1, mask & (pixel > 0), 0.0), rhs


@triton.jit
def solve_lines(
    across, slant, counter, factor, inverse, source, x, lines, pixels,
    FIRST: tl.constexpr, BESIDE: tl.constexpr, ONE_BLOCK: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """x = T^-1 (source + links * x of the lines beside), on even (FIRST 0) or odd lines.

    Without BESIDE, x is taken for zero there. Lines longer than a block leave their forward sweep in x.
    """
    line, inside = tile_of_lines(tl.program_id(0), lines, FIRST, 2, BLOCK_L)
    run = tl.arange(0, BLOCK_P).to(tl.int64)[None, :]
    if ONE_BLOCK:
        mask = inside & (run < pixels)
        here = line * pixels + run
        keep, rhs = _right_hand_side(across, slant, counter, factor, source, x, line, run, lines, pixels, mask, BESIDE)
        own = tl.load(inverse + here, mask, 0.0)  # asked for before the scan waits
        keep_back = tl.load(factor + here, mask, 0.0)
        _, z = tl.associative_scan((keep, rhs), 1, compose_linear)
        _, z = tl.associative_scan((keep_back, z * own), 1, compose_linear, reverse=True)
        tl.store(x + here, z, mask)
    else:
        carry = tl.zeros([BLOCK_L, 1], tl.float32)
        first = 0
        while first < pixels:
            pixel = first + run
            mask = inside & (pixel < pixels)
            keep, rhs = _right_hand_side(
                across, slant, counter, factor, source, x, line, pixel, lines, pixels, mask, BESIDE
            )
            keep, z = tl.associative_scan((keep, rhs), 1, compose_linear)
            z += keep * carry
            tl.store(x + line * pixels + pixel, z, mask)
            carry = column_of(z, run, BLOCK_P - 1)
            first += BLOCK_P
        tl.debug_barrier()  # a thread may read what another one wrote
        carry = tl.zeros([BLOCK_L, 1], tl.float32)
        while first > 0:
            first -= BLOCK_P
            pixel = first + run
            mask = inside & (pixel < pixels)
            here = line * pixels + pixel
            z = tl.load(x + here, mask, 0.0) * tl.load(inverse + here, mask, 0.0)
            keep, z = tl.associative_scan((tl.load(factor + here, mask, 0.0), z), 1, compose_linear, reverse=True)
            z += keep * carry
            tl.store(x + here, z, mask)
            carry = column_of(z, run, 0)


@triton.jit
def _tile_of_even_lines(lines, pixels, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr):
    """(even line as the next level counts it, pixel, mask) of a tile."""
    across_blocks = tl.cdiv(pixels, BLOCK_P)
    block = tl.program_id(0).to(tl.int64)
    coarse = (block // across_blocks * BLOCK_L + tl.arange(0, BLOCK_L))[:, None]
    pixel = (block % across_blocks * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    return coarse, pixel, (2 * coarse < lines) & (pixel < pixels)


@triton.jit
def restrict_residual(
    across, slant, counter, x, next_source, lines, pixels, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr
):
    """The residual on even lines, transposed, is the next level's right-hand side. Odd lines have none."""
    coarse, pixel, mask = _tile_of_even_lines(lines, pixels, BLOCK_L, BLOCK_P)
    residual = from_lines_beside(across, slant, counter, x, 2 * coarse, pixel, lines, pixels, mask)
    to = pixel * ((lines + 1) // 2) + coarse
    tl.store(next_source + tl.trans(to), tl.trans(residual), tl.trans(mask))


@triton.jit
def add_correction(next_x, x, lines, pixels, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr):
    """The next level's solution corrects the even lines."""
    coarse, pixel, mask = _tile_of_even_lines(lines, pixels, BLOCK_L, BLOCK_P)
    source = pixel * ((lines + 1) // 2) + coarse
    correction = tl.trans(tl.load(next_x + tl.trans(source), tl.trans(mask), 0.0))
    here = 2 * coarse * pixels + pixel
    tl.store(x + here, tl.load(x + here, mask, 0.0) + correction, mask)


@triton.jit
def multiply_dense(matrix, source, x, count, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr):
    """x = matrix source, of the last level: the inverse of its matrix."""
    row = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    elements = tl.load(matrix + row * count + column, (row < count) & (column < count), 0.0)
    values = tl.load(source + column, column < count, 0.0)
    tl.store(x + row, tl.sum(elements * values, 1, keep_dims=True), row < count)


# ---- conjugate gradients


@triton.jit
def _sum_of_slots(slots, SLOTS: tl.constexpr, BLOCK_S: tl.constexpr):
    slot = tl.arange(0, BLOCK_S)
    return tl.sum(tl.load(slots + slot, slot < SLOTS, 0.0), 0)


@triton.jit
def _image(next, across, x, i, count, width):
    """A x at some pixels, in float64: x and its differences to neighbours times links. Links that leave the image are
    zero in memory, and so a row's last pixel has none to the first one of the next row."""
    mask = i < count
    own = tl.load(x + i, mask, 0.0).to(tl.float64)
    right = tl.load(x + i + 1, i + 1 < count, 0.0).to(tl.float64)
    left = tl.load(x + i - 1, mask & (i > 0), 0.0).to(tl.float64)
    below = tl.load(x + i + width, i + width < count, 0.0).to(tl.float64)
    above = tl.load(x + i - width, mask & (i >= width), 0.0).to(tl.float64)
    total = own + tl.load(next + i, mask, 0.0).to(tl.float64) * (own - right)
    total += tl.load(next + i - 1, mask & (i > 0), 0.0).to(tl.float64) * (own - left)
    total += tl.load(across + i, mask, 0.0).to(tl.float64) * (own - below)
    total += tl.load(across + i - width, mask & (i >= width), 0.0).to(tl.float64) * (own - above)
    return own, total


@triton.jit
def true_residual(next, across, source, solution, residual, squares, count, width, chunk, BLOCK: tl.constexpr):
    """residual = source - A solution, computed in float64, and its sum of squares."""
    first = tl.program_id(0).to(tl.int64) * chunk
    total = tl.zeros([BLOCK], tl.float64)
    for offset in range(0, chunk, BLOCK):
        i = first + offset + tl.arange(0, BLOCK)
        mask = i < count
        _, image = _image(next, across, solution, i, count, width)
        left = tl.load(source + i, mask, 0.0).to(tl.float64) - image
        tl.store(residual + i, left.to(tl.float32), mask)
        total += left * left
    tl.store(squares + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def overlap(preconditioned, image, overlaps, count, chunk, BLOCK: tl.constexpr):
    """The cycle's solution times the image of the last direction."""
    first = tl.program_id(0).to(tl.int64) * chunk
    total = tl.zeros([BLOCK], tl.float64)
    for offset in range(0, chunk, BLOCK):
        i = first + offset + tl.arange(0, BLOCK)
        mask = i < count
        total += tl.load(preconditioned + i, mask, 0.0).to(tl.float64) * tl.load(image + i, mask, 0.0).to(tl.float64)
    tl.store(overlaps + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def turn(
    preconditioned, direction, overlaps, lengths, count, chunk,
    SLOTS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The new direction is conjugate to the last one whatever the cycle's rounding does to its symmetry. Before the
    first one, lengths are zero."""
    length = _sum_of_slots(lengths, SLOTS, BLOCK_S)
    keep = tl.where(length > 0.0, -_sum_of_slots(overlaps, SLOTS, BLOCK_S) / length, 0.0).to(tl.float32)
    first = tl.program_id(0).to(tl.int64) * chunk
    for offset in range(0, chunk, BLOCK):
        i = first + offset + tl.arange(0, BLOCK)
        mask = i < count
        turned = tl.load(preconditioned + i, mask, 0.0) + keep * tl.load(direction + i, mask, 0.0)
        tl.store(direction + i, turned, mask)


@triton.jit
def image_of_direction(
    next, across, direction, residual, image, lengths, products, count, width, chunk, BLOCK: tl.constexpr
):
    """A times the direction, its product with the direction (length), and the direction's with the residual.

    The last one is not taken from the cycle's solution, to which it would be equal without rounding: with what is left
    at the end it is not, and steps would lead astray.
    """
    first = tl.program_id(0).to(tl.int64) * chunk
    length = tl.zeros([BLOCK], tl.float64)
    product = tl.zeros([BLOCK], tl.float64)
    for offset in range(0, chunk, BLOCK):
        i = first + offset + tl.arange(0, BLOCK)
        mask = i < count
        own, applied = _image(next, across, direction, i, count, width)
        tl.store(image + i, applied.to(tl.float32), mask)
        length += own * applied
        product += own * tl.load(residual + i, mask, 0.0).to(tl.float64)
    tl.store(lengths + tl.program_id(0), tl.sum(length, 0))
    tl.store(products + tl.program_id(0), tl.sum(product, 0))


@triton.jit
def advance(
    direction, image, solution, residual, lengths, products, squares, count, chunk,
    SLOTS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A step along the direction, to where the residual has no part in it. No step where the direction is zero."""
    length = _sum_of_slots(lengths, SLOTS, BLOCK_S)
    by = tl.where(length > 0.0, _sum_of_slots(products, SLOTS, BLOCK_S) / length, 0.0)
    first = tl.program_id(0).to(tl.int64) * chunk
    total = tl.zeros([BLOCK], tl.float64)
    for offset in range(0, chunk, BLOCK):
        i = first + offset + tl.arange(0, BLOCK)
        mask = i < count
        along = tl.load(direction + i, mask, 0.0).to(tl.float64)
        tl.store(solution + i, tl.load(solution + i, mask, 0.0) + by * along, mask)
        left = tl.load(residual + i, mask, 0.0).to(tl.float64) - by * tl.load(image + i, mask, 0.0).to(tl.float64)
        tl.store(residual + i, left.to(tl.float32), mask)
        total += left * left
    tl.store(squares + tl.program_id(0), tl.sum(total, 0))
