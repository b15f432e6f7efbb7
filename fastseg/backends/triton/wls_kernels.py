"""What the kernels of the wls family share: a level's matrix, scans along lines, links to the lines beside a line.

A level's pixels lie line by line in memory, [lines, pixels]. Its matrix is I plus links to the eight neighbours; an
array holds the link of a pixel (l, p) where the other end is

    next      (l, p + 1)
    across    (l + 1, p)
    slant     (l + 1, p + 1)
    counter   (l + 1, p), from (l, p + 1): the link that crosses the slanted one

Level 0 has no slant and no counter, they are None there. Off-diagonal elements are the links' negatives. Diagonals are
not kept: they are a row's sum and its links. Offsets are 64-bit.

A first-order recurrence along a line is a scan of maps, since maps can be composed in any grouping.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def compose_linear(a1, b1, a2, b2):
    """a x + b: the second map after the first."""
    return a2 * a1, a2 * b1 + b2


@triton.jit
def column_of(values, run, which):
    """One column of a tile [lines, run of pixels]."""
    return tl.sum(tl.where(run == which, values, 0.0), 1, keep_dims=True)


@triton.jit
def tile_of_lines(block, lines, FIRST: tl.constexpr, STEP: tl.constexpr, BLOCK_L: tl.constexpr):
    """Lines FIRST, FIRST + STEP, ... of a program, as a column, and which of them there are."""
    line = FIRST + STEP * (block.to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L).to(tl.int64))[:, None]
    return line, line < lines


@triton.jit
def links_before(across, slant, counter, line, pixel, pixels, mask):
    """The sum of a pixel's links to the line before its own."""
    above = (line - 1) * pixels + pixel
    mask = mask & (line > 0)
    total = tl.load(across + above, mask, 0.0)
    if slant is not None:
        total += tl.load(slant + above - 1, mask & (pixel > 0), 0.0)
        total += tl.load(counter + above, mask & (pixel + 1 < pixels), 0.0)
    return total


@triton.jit
def links_after(across, slant, counter, line, pixel, lines, pixels, mask):
    """The sum of a pixel's links to the line after its own."""
    here = line * pixels + pixel
    mask = mask & (line + 1 < lines)
    total = tl.load(across + here, mask, 0.0)
    if slant is not None:
        total += tl.load(slant + here, mask & (pixel + 1 < pixels), 0.0)
        total += tl.load(counter + here - 1, mask & (pixel > 0), 0.0)
    return total


@triton.jit
def from_lines_beside(across, slant, counter, x, line, pixel, lines, pixels, mask):
    """A pixel's links to the lines before and after its own, times what x holds at their other ends."""
    here = line * pixels + pixel
    above = here - pixels
    below = here + pixels
    before = mask & (line > 0)
    after = mask & (line + 1 < lines)
    total = tl.load(across + above, before, 0.0) * tl.load(x + above, before, 0.0)
    total += tl.load(across + here, after, 0.0) * tl.load(x + below, after, 0.0)
    if slant is not None:
        left = pixel > 0
        right = pixel + 1 < pixels
        total += tl.load(slant + above - 1, before & left, 0.0) * tl.load(x + above - 1, before & left, 0.0)
        total += tl.load(counter + above, before & right, 0.0) * tl.load(x + above + 1, before & right, 0.0)
        total += tl.load(slant + here, after & right, 0.0) * tl.load(x + below + 1, after & right, 0.0)
        total += tl.load(counter + here - 1, after & left, 0.0) * tl.load(x + below - 1, after & left, 0.0)
    return total
