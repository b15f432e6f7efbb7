"""The kernel of winner takes all; winner_takes_all.py launches it and says how much it moves."""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def take_slices(
    costs, batch_stride, slice_stride, count, pixels, slices,
    old_index, old_cost, old_before, old_after, old_second, old_last, near, reach,
    index_to, cost_to, before_to, after_to, second_to, last_to,
    RESUMES: tl.constexpr, NEAR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some pixels through all slices, as WinnerState of csrc/cpu/winner_takes_all_state.h takes them."""
    ACC: tl.constexpr = cost_to.dtype.element_ty
    blocks = tl.cdiv(pixels, BLOCK)
    volume = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < pixels
    at = volume * pixels + pixel
    costs += volume * batch_stride + pixel
    infinity = tl.full([BLOCK], float("inf"), ACC)
    first = tl.full([], slices, tl.int32)
    if NEAR:  # the first and the last candidate; in 64 bits, for a sum may need them
        centre = tl.load(near + at, mask, 0).to(tl.int64)
        low = tl.maximum(centre - reach, -1).to(tl.int32)
        high = tl.minimum(centre + reach, first + count).to(tl.int32)
    if RESUMES:
        index = tl.load(old_index + at, mask, 0)
        cost = tl.load(old_cost + at, mask, 0.0)
        before = tl.load(old_before + at, mask, 0.0)
        after = tl.load(old_after + at, mask, 0.0)
        second = tl.load(old_second + at, mask, 0.0)
        last = tl.load(old_last + at, mask, 0.0)
        lower = before < second
        if NEAR:
            lower &= (first - 2 >= low) & (first - 2 <= high)
        earlier = tl.where(index == first - 1, tl.where(lower, before, second), cost)
    else:
        index = tl.full([BLOCK], -2, tl.int32)  # not -1, which slice 0 would follow
        cost, before, after, second, last, earlier = infinity, infinity, infinity, infinity, infinity, infinity
    nan = tl.zeros([BLOCK], tl.int1)
    for slice in tl.range(first, first + count, loop_unroll_factor=4):
        c = tl.load(costs, mask, 0.0).to(ACC)
        follows = index == slice - 1
        wins = c < cost
        lower = (c < second) & ~follows
        if NEAR:
            among = (slice >= low) & (slice <= high)
            wins &= among
            lower &= among
        nan |= c != c
        second = tl.where(wins, earlier, tl.where(lower, c, second))
        before = tl.where(wins, last, before)
        after = tl.where(follows, c, after)
        earlier = cost
        cost = tl.where(wins, c, cost)
        index = tl.where(wins, slice, index)
        last = c
        costs += slice_stride
    tl.store(index_to + at, tl.maximum(index, -1), mask)
    tl.store(cost_to + at, tl.where(nan, float("nan"), cost), mask)
    tl.store(before_to + at, before, mask)
    tl.store(after_to + at, tl.where(index == first + count - 1, infinity, after), mask)
    tl.store(second_to + at, second, mask)
    tl.store(last_to + at, last, mask)
