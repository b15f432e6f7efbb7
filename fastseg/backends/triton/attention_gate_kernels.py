"""Kernels of the attention gate; attention_gate.py launches them and says how much they move.

A program has some pixels of a sample. Its features stay in registers, a block of them at a time. Offsets are 64-bit.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.tensors import pointers, sigmoid, tile_mask


@triton.jit
def _add_inputs(
    total, weight, source, n, feature, pixel, features, channels, spatial, CHANNELS_LAST: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Adds what ``channels`` of a source give to the features. One channel after the other: tensor cores would round
    float32 to fewer bits, and a product of tiles without them holds both in registers."""
    outer = source.outer // ALIGN * ALIGN
    values = source.data + n * (source.batch // ALIGN * ALIGN)
    if CHANNELS_LAST:
        values += pixel * outer
        step = 1
        inside = pixel < spatial
    else:
        values += pixel
        step = outer
        inside = pixel < spatial // ALIGN * ALIGN
    row = weight + feature
    for _ in range(channels):
        w = tl.load(row, feature < features, 0.0)
        v = tl.load(values, inside, 0.0).to(total.dtype)
        total += w[:, None] * v[None, :]
        row += features
        values += step
    return total


@triton.jit
def _neighbours(index, fine, coarse, ACC: tl.constexpr):
    """Between which two coarse indices fine ones lie, and the weight of the second."""
    at = tl.maximum((index.to(ACC) + 0.5) * coarse / fine - 0.5, 0.0)
    low = tl.minimum(at.to(index.dtype), coarse - 1)
    return low, tl.minimum(low + 1, coarse - 1), at - low.to(ACC)


@triton.jit
def _interpolated(
    coarse, n, feature, pixel, features, spatial, height, width, depth, coarse_depth, coarse_height, coarse_width,
    INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """coarse [batch, features, coarse pixels] at these pixels, linearly between its pixels."""
    inside = (feature < features)[:, None] & (pixel < spatial)[None, :]
    pixel = pixel.to(INDEX)
    x_low, x_high, x_weight = _neighbours(pixel % width, width, coarse_width, ACC)
    row = pixel // width
    y_low, y_high, y_weight = _neighbours(row % height, height, coarse_height, ACC)
    z_low, z_high, z_weight = _neighbours(row // height, depth, coarse_depth, ACC)
    image = coarse + ((n * features + feature) * coarse_depth * coarse_height * coarse_width)[:, None]
    total = tl.zeros([feature.shape[0], pixel.shape[0]], ACC)
    corners = 8 if depth * coarse_depth > 1 else 4  # between planes of images, none lies behind
    for corner in range(corners):  # a loop that stays one: all addresses at a time would not fit in registers
        right, below, behind = corner % 2 == 1, corner // 2 % 2 == 1, corner // 4 == 1
        weight = tl.where(right, x_weight, 1 - x_weight)
        weight *= tl.where(below, y_weight, 1 - y_weight)
        weight *= tl.where(behind, z_weight, 1 - z_weight)
        at = tl.where(behind, z_high, z_low) * coarse_height + tl.where(below, y_high, y_low)
        at = at * coarse_width + tl.where(right, x_high, x_low)
        total += tl.load(image + at[None, :], inside, 0.0) * weight[None, :]
    return total


@triton.jit
def _features(
    x, gating, coarse, weight, vectors, n, feature, pixel, channels, gating_channels, features, spatial,
    depth, height, width, coarse_depth, coarse_height, coarse_width,
    INDEX: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_F: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """relu(Wx x + Wg g + bias) of a block of features, as [features, pixels]; and their psi."""
    ACC: tl.constexpr = weight.dtype.element_ty
    present = feature < features
    total = tl.zeros([BLOCK_F, BLOCK_S], ACC) + tl.load(vectors + feature, present, 0.0)[:, None]
    total = _add_inputs(total, weight, x, n, feature, pixel, features, channels, spatial, CHANNELS_LAST, ALIGN)
    if gating is not None:
        behind = weight + features * channels
        total = _add_inputs(
            total, behind, gating, n, feature, pixel, features, gating_channels, spatial, CHANNELS_LAST, ALIGN
        )
    if coarse is not None:
        total += _interpolated(
            coarse, n, feature, pixel, features, spatial, height, width, depth, coarse_depth, coarse_height,
            coarse_width, INDEX, ACC,
        )  # fmt: skip
    psi = tl.load(vectors + features + feature, present, 0.0)
    return tl.where(total <= 0, 0.0, total), psi  # NaN passes through


@triton.jit
def _place(spatial, BLOCK_S: tl.constexpr):
    tiles = tl.cdiv(spatial, BLOCK_S)
    program = tl.program_id(0)
    return (program // tiles).to(tl.int64), (program % tiles).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)


@triton.jit
def forward(
    x, gating, coarse, weight, vectors, y, channels, gating_channels, features, spatial,
    depth, height, width, coarse_depth, coarse_height, coarse_width,
    INDEX: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_F: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    ACC: tl.constexpr = weight.dtype.element_ty
    n, pixel = _place(spatial, BLOCK_S)
    logits = tl.zeros([BLOCK_S], ACC) + tl.load(vectors + 2 * features)
    for first in range(0, features, BLOCK_F):
        hidden, psi = _features(
            x, gating, coarse, weight, vectors, n, (first + tl.arange(0, BLOCK_F)).to(tl.int64), pixel,
            channels, gating_channels, features, spatial, depth, height, width,
            coarse_depth, coarse_height, coarse_width, INDEX, CHANNELS_LAST, ALIGN, BLOCK_F, BLOCK_S,
        )  # fmt: skip
        logits += tl.sum(hidden * psi[:, None], 0)
    attention, _ = sigmoid(logits)
    for first in range(0, channels, BLOCK_C):
        channel = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        inside = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
        values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
        tl.store(pointers(y, n, channel, pixel, CHANNELS_LAST, ALIGN), values * attention[None, :], inside)


@triton.jit
def backward(
    grad, x, gating, coarse, weight, vectors, before, attentions, sums, channels, gating_channels, features, spatial,
    depth, height, width, coarse_depth, coarse_height, coarse_width,
    INDEX: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_F: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The gradient before relu into before[batch, features, pixels], the attention into attentions[batch, pixels], and
    this program's share of the gradients of vectors into sums[programs, 2 * features + 1]."""
    ACC: tl.constexpr = weight.dtype.element_ty
    n, pixel = _place(spatial, BLOCK_S)
    logits = tl.zeros([BLOCK_S], ACC) + tl.load(vectors + 2 * features)
    for first in range(0, features, BLOCK_F):
        hidden, psi = _features(
            x, gating, coarse, weight, vectors, n, (first + tl.arange(0, BLOCK_F)).to(tl.int64), pixel,
            channels, gating_channels, features, spatial, depth, height, width,
            coarse_depth, coarse_height, coarse_width, INDEX, CHANNELS_LAST, ALIGN, BLOCK_F, BLOCK_S,
        )  # fmt: skip
        logits += tl.sum(hidden * psi[:, None], 0)
    attention, derivative = sigmoid(logits)
    tl.store(attentions + n * spatial + pixel, attention, pixel < spatial)
    through = tl.zeros([BLOCK_S], ACC)
    for first in range(0, channels, BLOCK_C):
        channel = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        inside = tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST, ALIGN)
        values = tl.load(pointers(x, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
        g = tl.load(pointers(grad, n, channel, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
        through += tl.sum(values * g, 0)
    dlogit = through * derivative
    slot = sums + tl.program_id(0).to(tl.int64) * (2 * features + 1)
    tl.store(slot + 2 * features, tl.sum(dlogit, 0))
    for first in range(0, features, BLOCK_F):
        feature = (first + tl.arange(0, BLOCK_F)).to(tl.int64)
        hidden, psi = _features(
            x, gating, coarse, weight, vectors, n, feature, pixel, channels, gating_channels, features, spatial,
            depth, height, width, coarse_depth, coarse_height, coarse_width,
            INDEX, CHANNELS_LAST, ALIGN, BLOCK_F, BLOCK_S,
        )  # fmt: skip
        present = feature < features
        dz = tl.where(hidden <= 0, 0.0, psi[:, None] * dlogit[None, :])
        target = before + (n * features + feature)[:, None] * spatial + pixel[None, :]
        tl.store(target, dz, present[:, None] & (pixel < spatial)[None, :])
        tl.store(slot + feature, tl.sum(dz, 1), present)
        tl.store(slot + features + feature, tl.sum(hidden * dlogit[None, :], 1), present)
