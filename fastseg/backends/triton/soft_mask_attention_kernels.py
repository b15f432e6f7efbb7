"""Kernels of soft-mask attention; soft_mask_attention.py launches them and says how much they move.

They work on tiles of [channels, pixels]. Offsets are 64-bit.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.tensors import pointers, sigmoid, tile_mask


@triton.jit
def _place(channels, spatial, ONE: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr):
    """Sample, first channel and pixels of a program. With a mask of ONE channel it goes over all channels."""
    blocks = 1 if ONE else tl.cdiv(channels, BLOCK_C)
    tiles = tl.cdiv(spatial, BLOCK_S)
    program = tl.program_id(0)
    tile = program % tiles
    row = program // tiles
    n = (row // blocks).to(tl.int64)
    return n, row % blocks * BLOCK_C, tile.to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)


@triton.jit
def _one_mask(mask, n, pixel, spatial, ALIGN: tl.constexpr, ACC: tl.constexpr):
    """The sigmoid of a mask of one channel and its derivative, as [1, pixels]."""
    batch = mask.batch // ALIGN * ALIGN
    value, derivative = sigmoid(tl.load(mask.data + n * batch + pixel, pixel < spatial, 0.0).to(ACC))
    return value[None, :], derivative[None, :]


@triton.jit
def forward(
    trunk, mask, y, channels, spatial, ACC: tl.constexpr, ONE: tl.constexpr, MASK_ALIGN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    n, first, pixel = _place(channels, spatial, ONE, BLOCK_C, BLOCK_S)
    if ONE:
        value, _ = _one_mask(mask, n, pixel, spatial, MASK_ALIGN, ACC)
        for c in range(0, channels, BLOCK_C):
            channel = (c + tl.arange(0, BLOCK_C)).to(tl.int64)
            inside = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
            t = tl.load(pointers(trunk, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
            tl.store(pointers(y, n, channel, pixel, CHANNELS_LAST, ALIGN), t * (1 + value), inside)
    else:
        channel = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        inside = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
        t = tl.load(pointers(trunk, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
        m = tl.load(pointers(mask, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
        value, _ = sigmoid(m)
        tl.store(pointers(y, n, channel, pixel, CHANNELS_LAST, ALIGN), t * (1 + value), inside)


@triton.jit
def backward(
    grad, trunk, mask, dtrunk, dmask, channels, spatial, ACC: tl.constexpr, ONE: tl.constexpr,
    MASK_ALIGN: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """dtrunk and dmask, either of which may be None."""
    n, first, pixel = _place(channels, spatial, ONE, BLOCK_C, BLOCK_S)
    if ONE:
        value, derivative = _one_mask(mask, n, pixel, spatial, MASK_ALIGN, ACC)
        total = tl.zeros([BLOCK_C, BLOCK_S], ACC)
        for c in range(0, channels, BLOCK_C):
            channel = (c + tl.arange(0, BLOCK_C)).to(tl.int64)
            inside = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
            g = tl.load(pointers(grad, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
            if dtrunk is not None:
                tl.store(pointers(dtrunk, n, channel, pixel, CHANNELS_LAST, ALIGN), g * (1 + value), inside)
            if dmask is not None:
                t = tl.load(pointers(trunk, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
                total += g * t
        if dmask is not None:
            target = dmask.data + n * (dmask.batch // MASK_ALIGN * MASK_ALIGN) + pixel[None, :]
            tl.store(target, tl.sum(total, 0)[None, :] * derivative, (pixel < spatial)[None, :])
    else:
        channel = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        inside = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
        g = tl.load(pointers(grad, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
        m = tl.load(pointers(mask, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
        value, derivative = sigmoid(m)
        if dtrunk is not None:
            tl.store(pointers(dtrunk, n, channel, pixel, CHANNELS_LAST, ALIGN), g * (1 + value), inside)
        if dmask is not None:
            t = tl.load(pointers(trunk, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
            tl.store(pointers(dmask, n, channel, pixel, CHANNELS_LAST, ALIGN), g * t * derivative, inside)
