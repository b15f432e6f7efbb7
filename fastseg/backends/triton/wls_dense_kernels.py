"""The kernel that writes a level's matrix out, for its inverse; wls_setup.py launches it. Links: wls_kernels.py."""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _joined(values, diagonal, column, row, links, at, by, mask):
    """A row of the matrix with one more link: of ``row`` to the pixel ``by`` further on."""
    link = tl.load(links + at, mask, 0.0).to(tl.float64)
    return tl.where(column == row + by, values - link, values), diagonal + link


@triton.jit
def dense_matrix(
    total, next, across, slant, counter, matrix, lines, pixels, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr
):
    """Some rows, in float64. Where two places coincide, as in lines of two pixels, one of the links is not there."""
    count = lines * pixels
    row = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    mask = row < count
    left = mask & (row % pixels > 0)
    right = mask & (row % pixels + 1 < pixels)
    above = row >= pixels
    below = row + pixels < count
    values = tl.zeros([BLOCK_R, BLOCK], tl.float64)
    diagonal = tl.load(total + row, mask, 0.0).to(tl.float64)
    values, diagonal = _joined(values, diagonal, column, row, next, row - 1, -1, left)
    values, diagonal = _joined(values, diagonal, column, row, next, row, 1, right)
    values, diagonal = _joined(values, diagonal, column, row, across, row - pixels, -pixels, mask & above)
    values, diagonal = _joined(values, diagonal, column, row, across, row, pixels, mask & below)
    if slant is not None:
        first = row - pixels
        values, diagonal = _joined(values, diagonal, column, row, slant, first - 1, -pixels - 1, left & above)
        values, diagonal = _joined(values, diagonal, column, row, slant, row, pixels + 1, right & below)
        values, diagonal = _joined(values, diagonal, column, row, counter, first, 1 - pixels, right & above)
        values, diagonal = _joined(values, diagonal, column, row, counter, row - 1, pixels - 1, left & below)
    values = tl.where(column == row, diagonal, values)
    tl.store(matrix + row.to(tl.int64) * count + column, values, mask & (column < count))
