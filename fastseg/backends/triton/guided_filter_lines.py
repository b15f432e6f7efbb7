"""A line of pixels and what windows see beyond its ends, for the kernels of the guided filter."""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def period_of(size, BORDER: tl.constexpr):
    """After how many places a mirrored line begins anew."""
    return 2 * size if BORDER == "reflect" else tl.maximum(2 * size - 2, 1)


@triton.jit
def pixel_at(place, size, radius, BORDER: tl.constexpr):
    """The pixel at a place from -radius on of the mirrored line; places are pixels where windows are cut."""
    pixel = place
    if BORDER != "truncate":
        period = period_of(size, BORDER)
        pixel = (place + (radius // period + 1) * period) % period
        mirror = period - pixel
        if BORDER == "reflect":
            mirror -= 1
        pixel = tl.where(pixel < size, pixel, mirror)
    return pixel


@triton.jit
def times_held(pixel, centre, size, radius, BORDER: tl.constexpr):
    """How many times a window's line holds a pixel, one at most ``radius`` from its centre."""
    times = 1
    if BORDER != "truncate":
        period = period_of(size, BORDER)
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
def places_of(centre, size, radius, BORDER: tl.constexpr):
    """How many places the window of a pixel has along one axis."""
    if BORDER == "truncate":
        count = tl.minimum(centre + radius, size - 1) - tl.maximum(centre - radius, 0) + 1
    else:
        count = 2 * radius + 1
    return count


@triton.jit
def sum_before(place, sums, size, radius, BORDER: tl.constexpr):
    """The sum of a line's places before one, up to a constant; ``sums`` has those of the pixels up to each."""
    if BORDER == "truncate":
        pixels = tl.minimum(tl.maximum(place, 0), size)
        total = tl.load(sums + pixels - 1, pixels > 0, 0.0)
    else:
        period = period_of(size, BORDER)
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
