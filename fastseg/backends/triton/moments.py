"""Mean and variance in parts, for Triton kernels.

The variance is never E[x^2] - E[x]^2. A tile takes its mean, then the squares of the deviations from it, and tiles are
merged by Chan's formula. A mean is carried as center + shift, where center is rounded and shift is what the rounding
lost, because with |mean| >> std half a unit in the last place of the mean is visible in x - mean.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def moments(values, mask, count):
    """center, shift and M2 (the sum of squared deviations) along the pixels, and the deviations from center."""
    center = tl.sum(values, 1) / count
    deviation = tl.where(mask, values - center[:, None], 0.0)
    shift = tl.sum(deviation, 1) / count
    m2 = tl.sum(deviation * deviation, 1) - count * shift * shift
    return center, shift, m2, deviation


@triton.jit
def merge_tile(center, shift, m2, count, tile_center, tile_shift, tile_m2, tile_count):
    """The moments of ``count`` pixels and of a tile's in one. Either may be none."""
    center = tl.where(count == 0, tile_center, center)
    delta = tl.where(tile_count > 0, (tile_center - center) + (tile_shift - shift), 0.0)
    fraction = tile_count / tl.maximum(count + tile_count, 1)
    shift += delta * fraction
    m2 += tile_m2 + delta * delta * count * fraction
    return center, shift, m2, count + tile_count


@triton.jit
def merge_parts(part_center, part_shift, part_m2, count, total, AXIS: tl.constexpr):
    """center, shift and M2 of ``total`` pixels, from parts of ``count`` pixels each: those of [parts] along axis 0 as
    scalars, those of [rows, parts] along axis 1 for each row."""
    center = tl.sum(part_center * count, AXIS) / total
    deviation = part_center - (center if AXIS == 0 else center[:, None])
    deviation = tl.where(count > 0, deviation + part_shift, 0.0)
    shift = tl.sum(deviation * count, AXIS) / total
    m2 = tl.sum(part_m2 + deviation * deviation * count, AXIS) - shift * shift * total
    return center, shift, m2


@triton.jit
def reciprocal_deviation(m2, count, EPS: tl.constexpr):
    variance = m2 / count
    # Rounding can leave a constant row a hair below zero. Written so that NaN stays.
    return tl.rsqrt(tl.where(variance < 0, 0.0, variance) + EPS)
