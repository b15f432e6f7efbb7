"""The loss and its slopes from the sums of samples and classes: csrc/cpu/loss_formula.cpp in one program, in float64.

loss.py launches it, after the sums of loss_kernels.py. A sum that is NaN, of a truth that is none, makes the loss NaN.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

#: (1 - index)^gamma is flat below this, as in fastseg/reference/loss.py.
LEAST = tl.constexpr(1e-7)


@triton.jit
def _sums_of(slots, n, k, samples, classes, parts, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr):
    """The four sums of samples and classes, [BLOCK_N, BLOCK_K] each: those of the parts, always in the same order."""
    shared = tl.zeros([BLOCK_N, BLOCK_P, BLOCK_K], tl.float64)
    predicted, real, entropy = shared, shared, shared
    for first in range(0, parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)
        inside = (n < samples)[:, None, None] & (part < parts)[None, :, None] & (k < classes)[None, None, :]
        slot = slots + (n[:, None, None] * parts + part[None, :, None]) * 4 * classes + k[None, None, :]
        shared += tl.load(slot, inside, 0.0)
        predicted += tl.load(slot + classes, inside, 0.0)
        real += tl.load(slot + 2 * classes, inside, 0.0)
        entropy += tl.load(slot + 3 * classes, inside, 0.0)
    return tl.sum(shared, 1), tl.sum(predicted, 1), tl.sum(real, 1), tl.sum(entropy, 1)


@triton.jit
def _indices(shared, predicted, real, counts, share, fp_weight, fn_weight, smooth, gamma, FOCAL: tl.constexpr):
    """(1 - Tversky index)^gamma of groups and classes times share, and its slopes by the first two sums. One minus the
    index comes from what is missed."""
    wrong = fp_weight * (predicted - shared) + fn_weight * (real - shared)
    right = shared + smooth
    everything = right + wrong
    miss = wrong / everything
    slope = tl.full(miss.shape, 1.0, tl.float64) * share
    if FOCAL:
        flat = miss < LEAST
        miss = tl.where(flat, LEAST, miss)
        power = tl.exp((gamma - 1) * tl.log(miss))
        slope = tl.where(flat, 0.0, share * gamma * power)
        miss *= power
    square = everything * everything
    by_shared = -slope * ((fp_weight + fn_weight) * right + wrong) / square
    return tl.where(counts, share * miss, 0.0), by_shared, slope * fp_weight * right / square


@triton.jit
def _generalized(shared, predicted, real, counts, share):
    """1 - 2 sum w shared / sum w (predicted + truth), w = 1 / truth^2, of groups: in all their classes the same."""
    weight = tl.where(counts & (real > 0), 1 / (real * real), 0.0)
    heaviest = tl.max(weight, 1)[:, None]
    absent = tl.where(heaviest > 0, heaviest, 1.0)  # by the formula infinite
    weight = tl.where(counts, tl.where(weight == 0, absent, weight), 0.0)
    wrong = tl.sum(weight * (predicted + real - 2 * shared), 1)[:, None]
    everything = tl.sum(weight * (predicted + real), 1)[:, None]
    some = everything != 0  # NaN too
    divisor = tl.where(some, everything, 1.0)
    miss = tl.where(some, wrong / divisor, 0.0)
    by_shared = tl.where(some, -2 * share * weight / divisor, 0.0)
    return share * miss, by_shared, tl.where(some, share * weight * (1 - miss) / divisor, 0.0)


@triton.jit
def _overlap(
    shared, predicted, real, counts, share, weight, fp_weight, fn_weight, smooth, gamma,
    GENERALIZED: tl.constexpr, FOCAL: tl.constexpr,
):  # fmt: skip
    """The overlap of groups [G, BLOCK_K], of which those count that ``counts`` says, and its slopes times weight."""
    if GENERALIZED:
        loss, by_shared, by_predicted = _generalized(shared, predicted, real, counts, share)
    else:
        loss, by_shared, by_predicted = _indices(
            shared, predicted, real, counts, share, fp_weight, fn_weight, smooth, gamma, FOCAL
        )
    return tl.sum(loss), tl.where(counts, weight * by_shared, 0.0), tl.where(counts, weight * by_predicted, 0.0)


@triton.jit
def _entropy(real, entropy, class_weights, k, classes, voxels, SIGMOID: tl.constexpr, BALANCED: tl.constexpr):
    """The mean over voxels, weighted by their classes, and its slopes; binary: over regions too."""
    if SIGMOID:
        return tl.sum(entropy) / voxels, tl.full(entropy.shape, 1.0, tl.float64) / voxels
    else:
        if BALANCED:
            weight = tl.where(real > 0, 1 / real, 0.0)
        elif class_weights is not None:
            weight = tl.load(class_weights + k, k < classes, 0.0)[None, :]
        else:
            weight = tl.full(real.shape, 1.0, tl.float64)
        count = tl.sum(weight * real)
        some = count != 0  # otherwise no voxel counts; NaN does
        divisor = tl.where(some, count, 1.0)
        total = tl.sum(tl.where(weight != 0, weight * entropy, 0.0))
        return tl.where(some, total / divisor, 0.0), tl.where(some, weight / divisor, 0.0)


@triton.jit
def formula(
    slots, class_weights, loss, slopes, samples, classes, parts, voxels: tl.float64, share: tl.float64,
    overlap_weight: tl.float64, ce_weight: tl.float64, fp_weight: tl.float64, fn_weight: tl.float64,
    smooth: tl.float64, gamma: tl.float64,
    SIGMOID: tl.constexpr, GENERALIZED: tl.constexpr, FOCAL: tl.constexpr, BALANCED: tl.constexpr,
    WHOLE_BATCH: tl.constexpr, FIRST: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """loss and slopes[N, 3, K] from slots[N, parts, 4, K].

    share: of one summand in the mean that the overlap is. FIRST: the first class that it counts.
    """
    k = tl.arange(0, BLOCK_K).to(tl.int64)
    of_class = (k >= FIRST) & (k < classes)
    shared = tl.zeros([1, BLOCK_K], tl.float64)  # of the whole batch, and so on
    predicted, real, entropy = shared, shared, shared
    overlap = tl.sum(shared)
    for first in range(0, samples, BLOCK_N):
        n = (first + tl.arange(0, BLOCK_N)).to(tl.int64)
        each = _sums_of(slots, n, k, samples, classes, parts, BLOCK_N, BLOCK_P, BLOCK_K)
        if not WHOLE_BATCH:
            inside = (n < samples)[:, None]
            miss, by_shared, by_predicted = _overlap(
                each[0], each[1], each[2], inside & of_class[None, :], share,
                overlap_weight, fp_weight, fn_weight, smooth, gamma, GENERALIZED, FOCAL,
            )  # fmt: skip
            overlap += miss
            slope = slopes + 3 * n[:, None] * classes + k[None, :]
            tl.store(slope, by_shared, inside & (k < classes)[None, :])
            tl.store(slope + classes, by_predicted, inside & (k < classes)[None, :])
        shared += tl.sum(each[0], 0)[None, :]
        predicted += tl.sum(each[1], 0)[None, :]
        real += tl.sum(each[2], 0)[None, :]
        entropy += tl.sum(each[3], 0)[None, :]
    mean, by_entropy = _entropy(real, entropy, class_weights, k, classes, voxels, SIGMOID, BALANCED)
    by_entropy = ce_weight * by_entropy
    if WHOLE_BATCH:
        overlap, by_shared, by_predicted = _overlap(
            shared, predicted, real, of_class[None, :], share,
            overlap_weight, fp_weight, fn_weight, smooth, gamma, GENERALIZED, FOCAL,
        )  # fmt: skip
    slope = slopes + k[None, :]
    for _ in range(samples):
        if WHOLE_BATCH:
            tl.store(slope, by_shared, (k < classes)[None, :])
            tl.store(slope + classes, by_predicted, (k < classes)[None, :])
        tl.store(slope + 2 * classes, by_entropy, (k < classes)[None, :])
        slope += 3 * classes
    # What has no weight does not count, were it infinite; but a truth that is none does.
    overlap = tl.where(overlap_weight == 0, 0.0, overlap_weight * overlap)
    mean = tl.where(ce_weight == 0, 0.0, ce_weight * mean)
    truth = tl.sum(real)
    tl.store(loss, tl.where(truth == truth, overlap + mean, float("nan")))
