"""The kernel of the fast global smoother; fast_global_smoother.py launches it and says how much it moves.

A recurrence along a line becomes a scan of maps, for maps can be composed in any grouping:

    e_i = 1 + l e_{i-1} / (e_{i-1} + l)           fractions of linear maps, three numbers >= 0 each
    z_i = (1 - 1 / e_i) z_{i-1} + f_i / e_i       linear maps
    u_i = c_i u_{i+1} + (1 - c_i) z_i             linear maps, from the end; c_i = l_i / (e_i + l_i)

with l_i = lambda * w_i, the link of pixel i to the next one (csrc/cpu/fast_global_smoother_lines.h has the same).
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.tensors import store_rounded


@triton.jit
def _compose_fractions(b1, c1, d1, b2, c2, d2):
    """(e + b) / (c e + d): the second map after the first."""
    scale = 1.0 / (1.0 + b2 * c1)
    return (b1 + b2 * d1) * scale, (c2 + d2 * c1) * scale, (c2 * b1 + d2 * d1) * scale


@triton.jit
def _compose_linear(a1, b1, a2, b2):
    """a u + b: the second map after the first."""
    return a2 * a1, a2 * b1 + b2


@triton.jit
def _link(guide, here, there, mask, plane, strength, sigma, GUIDES: tl.constexpr, ACC: tl.constexpr):
    """lambda * exp(-|dI| / sigma) between two tiles of pixels, zero where there is no pair."""
    distance = tl.zeros(mask.shape, ACC)
    for channel in tl.static_range(GUIDES):
        colours = guide + channel * plane
        step = tl.load(colours + here, mask, 0.0).to(ACC) - tl.load(colours + there, mask, 0.0).to(ACC)
        distance += step * step if GUIDES > 1 else tl.abs(step)
    if GUIDES > 1:
        distance = tl.sqrt(distance)
    return tl.where(mask, strength * tl.exp(-distance / sigma), 0.0)


@triton.jit
def solve_lines(
    src, guide, values, carries, dst, channels, plane, lines, pixels, line_stride, pixel_stride,
    strength: tl.float64, sigma: tl.float64,
    GUIDES: tl.constexpr, ONE_TILE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Some lines of one image. Lines that are longer than a tile leave z and c in ``values`` and ``carries``."""
    ACC: tl.constexpr = values.dtype.element_ty
    strength = tl.full([], strength, ACC)
    sigma = tl.full([], sigma, ACC)
    blocks = tl.cdiv(lines, BLOCK_L)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    line = ((tl.program_id(0) % blocks) * BLOCK_L + tl.arange(0, BLOCK_L)).to(tl.int64)
    src += image * plane
    values += image * plane
    carries += image * plane
    dst += image * plane
    guide += image // channels * (GUIDES * plane)
    pixel = tl.arange(0, BLOCK_P).to(tl.int64)

    e_before = tl.full([BLOCK_L], 1.0, ACC)
    z_before = tl.zeros([BLOCK_L], ACC)
    u_after = tl.zeros([BLOCK_L], ACC)
    first = 0
    while first < pixels:
        p = first + pixel
        here = line[:, None] * line_stride + p[None, :] * pixel_stride
        mask = (line < lines)[:, None] & (p < pixels)[None, :]
        before = mask & (p > 0)[None, :]
        after = mask & (p + 1 < pixels)[None, :]
        left = _link(guide, here, here - pixel_stride, before, plane, strength, sigma, GUIDES, ACC)
        right = _link(guide, here, here + pixel_stride, after, plane, strength, sigma, GUIDES, ACC)
        apart = 1.0 / (1.0 + left)
        together = left * apart
        b, c, d = tl.associative_scan((together, apart, together), 1, _compose_fractions)
        e = (e_before[:, None] + b) / (c * e_before[:, None] + d)
        f = tl.load(src + here, mask, 0.0).to(ACC)
        keep, gained = tl.associative_scan((1.0 - 1.0 / e, f / e), 1, _compose_linear)
        z = keep * z_before[:, None] + gained
        carry = right / (e + right)
        if ONE_TILE:
            _, u = tl.associative_scan((carry, z - carry * z), 1, _compose_linear, reverse=True)
            store_rounded(dst + here, u, mask)
        else:
            tl.store(values + here, z, mask)
            tl.store(carries + here, carry, mask)
            last = (pixel == BLOCK_P - 1)[None, :]
            e_before = tl.sum(tl.where(last, e, 0.0), 1)
            z_before = tl.sum(tl.where(last, z, 0.0), 1)
        first += BLOCK_P

    if not ONE_TILE:
        tl.debug_barrier()  # a thread may read what another one wrote
        while first > 0:
            first -= BLOCK_P
            p = first + pixel
            here = line[:, None] * line_stride + p[None, :] * pixel_stride
            mask = (line < lines)[:, None] & (p < pixels)[None, :]
            z = tl.load(values + here, mask, 0.0)
            carry = tl.load(carries + here, mask, 0.0)
            keep, gained = tl.associative_scan((carry, z - carry * z), 1, _compose_linear, reverse=True)
            u = keep * u_after[:, None] + gained
            store_rounded(dst + here, u, mask)
            u_after = tl.sum(tl.where((pixel == 0)[None, :], u, 0.0), 1)
