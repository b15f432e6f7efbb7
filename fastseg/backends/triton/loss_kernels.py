"""Kernels of the losses; loss.py launches them and says how much they move, loss_formula_kernel.py has the formula.

They work on tiles of [classes, voxels]. Offsets are 64-bit.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fastseg.backends.triton.tensors import pointers, sigmoid, tile_mask

# ---- device functions ------------------------------------------------------------------------------------------------


@triton.jit
def _log_near_one(f):
    """log(1 + f) in float32 to the last bits, 1 + f from sqrt(1/2) to sqrt(2): the polynomial of Cephes' logf. There,
    where sure predictions are, tl.log is off by 2^-22."""
    y = 7.0376836292e-2 * f - 1.1514610310e-1
    y = y * f + 1.1676998740e-1
    y = y * f - 1.2420140846e-1
    y = y * f + 1.4249322787e-1
    y = y * f - 1.6668057665e-1
    y = y * f + 2.0000714765e-1
    y = y * f - 2.4999993993e-1
    y = y * f + 3.3333331174e-1
    return (y * f - 0.5) * (f * f) + f


@triton.jit
def _log(x):
    """Of numbers from 1 on."""
    if x.dtype == tl.float64:
        return tl.log(x)
    else:
        bits = x.to(tl.int32, bitcast=True)
        exponent = (bits - 0x3F3504F3) >> 23  # that of sqrt(1/2) is 0
        f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1
        log = exponent.to(tl.float32) * 0.6931472 + _log_near_one(f)
        return tl.where(x < float("inf"), log, x)  # NaN has no exponent


@triton.jit
def _log_one_and(e):
    """log(1 + e) of numbers from 0 to 1."""
    if e.dtype == tl.float64:
        return tl.log(1 + e)
    else:
        halved = e > 0.4142
        f = tl.where(halved, 0.5 * e - 0.5, e)
        return tl.where(halved, 0.6931472, 0.0) + _log_near_one(f)


@triton.jit
def _classes_of(truth, n, pixel, spatial, classes, ignored, TRUTH_LAST: tl.constexpr, TRUTH_ALIGN: tl.constexpr):
    """The class of each voxel, -1 where it does not count, and where the truth is no class."""
    at = n * (truth.batch // TRUTH_ALIGN * TRUTH_ALIGN)
    if TRUTH_LAST:
        at += pixel * truth.pixel
        inside = pixel < spatial
    else:
        at += pixel
        inside = pixel < spatial // TRUTH_ALIGN * TRUTH_ALIGN
    value = tl.load(truth.data + at, inside, 0)
    if value.dtype.is_floating():
        is_class = (value >= 0) & (value < classes) & (value == tl.floor(value))
    else:
        if value.dtype != tl.int64:
            value = value.to(tl.int32)  # an ignored class need not be a byte
        is_class = (value >= 0) & (value < classes)
    counts = inside & (value != ignored)
    label = tl.where(counts & is_class, value, -1).to(tl.int32)
    return label, counts & ~is_class


@triton.jit
def _regions_of(truth, n, k, pixel, inside, ACC: tl.constexpr, TRUTH_LAST: tl.constexpr, TRUTH_ALIGN: tl.constexpr):
    """The truth of each region and voxel; NaN where it is not from 0 to 1."""
    at = n * (truth.batch // TRUTH_ALIGN * TRUTH_ALIGN)
    if TRUTH_LAST:
        at += k[:, None] * truth.channel + pixel[None, :] * (truth.pixel // TRUTH_ALIGN * TRUTH_ALIGN)
    else:
        at += k[:, None] * (truth.channel // TRUTH_ALIGN * TRUTH_ALIGN) + pixel[None, :]
    r = tl.load(truth.data + at, inside, 0).to(ACC)
    return tl.where((r >= 0) & (r <= 1), r, float("nan"))


@triton.jit
def _softmax(z, k, classes, PADDED: tl.constexpr):
    """Logits with the largest of each voxel subtracted, their exponentials, and the sum of these."""
    if PADDED:
        z = tl.where((k < classes)[:, None], z, float("-inf"))
    z = z - tl.max(z, 0)[None, :]
    # exp2 flushes to 0, for which exp takes three more instructions.
    e = tl.exp(z) if z.dtype == tl.float64 else tl.exp2(z * 1.4426950408889634)
    return z, e, tl.sum(e, 0)[None, :]


@triton.jit
def _fold(x, FOLD: tl.constexpr, NEIGHBOURS: tl.constexpr):
    """Sums of FOLD voxels each, of those that a thread holds: neighbours, or those far from each other."""
    if NEIGHBOURS:
        return tl.sum(tl.reshape(x, [x.shape[0], x.shape[1] // FOLD, FOLD]), 2)
    else:
        return tl.sum(tl.reshape(x, [x.shape[0], FOLD, x.shape[1] // FOLD]), 1)


@triton.jit
def _per_class(slopes, classes, k, scale, ACC: tl.constexpr):
    return (tl.load(slopes + k, k < classes, 0.0) * scale).to(ACC)[:, None]


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def sums(
    logits, truth, slots, classes, spatial, parts, tiles, ignored: tl.int64,
    ACC: tl.constexpr, SIGMOID: tl.constexpr, TRUTH_LAST: tl.constexpr, TRUTH_ALIGN: tl.constexpr,
    FOLD: tl.constexpr, NEIGHBOURS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, PADDED: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The four sums of each class over ``tiles`` tiles, into slots[N, parts, 4, K]. A truth that is none makes those of
    the truth NaN, for all classes."""
    n = (tl.program_id(0) // parts).to(tl.int64)
    part = tl.program_id(0) % parts
    k = tl.arange(0, BLOCK_K).to(tl.int64)
    # Tiles need no sum over lanes: each thread has sums of its own.
    shared = tl.zeros([BLOCK_K, BLOCK_S // FOLD], ACC)
    predicted, real, entropy = shared, shared, shared
    wrong = tl.zeros([BLOCK_S], tl.int32)
    first = part.to(tl.int64) * tiles * BLOCK_S
    for tile in range(tl.minimum(tiles, tl.cdiv(spatial - first, BLOCK_S).to(tl.int32))):
        pixel = first + tile * BLOCK_S + tl.arange(0, BLOCK_S)
        inside = tile_mask(k, pixel, classes, spatial, CHANNELS_LAST, ALIGN)
        z = tl.load(pointers(logits, n, k, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
        if SIGMOID:
            r = _regions_of(truth, n, k, pixel, inside, ACC, TRUTH_LAST, TRUTH_ALIGN)
            p, _ = sigmoid(z)
            h = tl.maximum(z, 0.0) - z * r + _log_one_and(tl.exp(-tl.abs(z)))
            p, h, both = tl.where(inside, p, 0.0), tl.where(inside, h, 0.0), p * r
        else:
            label, none = _classes_of(truth, n, pixel, spatial, classes, ignored, TRUTH_LAST, TRUTH_ALIGN)
            wrong += none.to(tl.int32)
            z, e, total = _softmax(z, k, classes, PADDED)
            # Selected and not multiplied: what lies in voxels that do not count may be NaN.
            p = tl.where((label >= 0)[None, :], e * (1 / total), 0.0)
            true = label[None, :] == k.to(tl.int32)[:, None]
            h = tl.where(true, _log(total) - z, 0.0)
            both = tl.where(true, p, 0.0)
            # That p is a number makes the compiler count where p is, and not in a layout of its own with shuffles.
            r = tl.where(true & (p == p), 1.0, 0.0).to(ACC)
        shared += _fold(both, FOLD, NEIGHBOURS)
        predicted += _fold(p, FOLD, NEIGHBOURS)
        real += _fold(r, FOLD, NEIGHBOURS)
        entropy += _fold(h, FOLD, NEIGHBOURS)
    wrongs = tl.sum((real != real).to(tl.int32)) if SIGMOID else tl.sum(wrong)
    slot = slots + tl.program_id(0).to(tl.int64) * 4 * classes + k
    of_truth = tl.where(wrongs > 0, float("nan"), tl.sum(real.to(tl.float64), 1))
    tl.store(slot, tl.sum(shared.to(tl.float64), 1), k < classes)
    tl.store(slot + classes, tl.sum(predicted.to(tl.float64), 1), k < classes)
    tl.store(slot + 2 * classes, of_truth, k < classes)
    tl.store(slot + 3 * classes, tl.sum(entropy.to(tl.float64), 1), k < classes)


@triton.jit
def gradient(
    grad, logits, truth, slopes, dlogits, classes, spatial, ignored: tl.int64,
    ACC: tl.constexpr, SIGMOID: tl.constexpr, TRUTH_LAST: tl.constexpr, TRUTH_ALIGN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr, PADDED: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One tile of dlogits, by slopes[N, 3, K]: a_k by the sum of p_k and of r p_k, and w by the entropy.

    Softmax: p_k (a_k - sum p a) + w (p_k - r_k); sigmoid: p' a + w (p - r).
    """
    blocks = tl.cdiv(spatial, BLOCK_S)
    # The tile that was read last goes first, for it may still be in the cache.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    n = (program // blocks).to(tl.int64)
    pixel = (program % blocks).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    k = tl.arange(0, BLOCK_K).to(tl.int64)
    inside = tile_mask(k, pixel, classes, spatial, CHANNELS_LAST, ALIGN)
    z = tl.load(pointers(logits, n, k, pixel, CHANNELS_LAST, ALIGN), inside, 0.0).to(ACC)
    scale = tl.load(grad).to(tl.float64)
    by_shared = _per_class(slopes + 3 * n * classes, classes, k, scale, ACC)
    by_predicted = _per_class(slopes + (3 * n + 1) * classes, classes, k, scale, ACC)
    by_entropy = _per_class(slopes + (3 * n + 2) * classes, classes, k, scale, ACC)
    if SIGMOID:
        r = _regions_of(truth, n, k, pixel, inside, ACC, TRUTH_LAST, TRUTH_ALIGN)
        p, derivative = sigmoid(z)
        dz = derivative * (by_predicted + r * by_shared) + by_entropy * (p - r)
    else:
        label, _ = _classes_of(truth, n, pixel, spatial, classes, ignored, TRUTH_LAST, TRUTH_ALIGN)
        _, e, total = _softmax(z, k, classes, PADDED)
        p = tl.where((label >= 0)[None, :], e * (1 / total), 0.0)
        true = label[None, :] == k.to(tl.int32)[:, None]
        slope = by_predicted + tl.where(true, by_shared, 0.0)
        weight = tl.sum(tl.where(true, by_entropy, 0.0), 0)[None, :]
        dz = p * (slope - tl.sum(p * slope, 0)[None, :]) + weight * (p - tl.where(true, 1.0, 0.0))
    tl.store(pointers(dlogits, n, k, pixel, CHANNELS_LAST, ALIGN), dz, inside)
