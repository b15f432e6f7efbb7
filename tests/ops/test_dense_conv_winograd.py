"""Convolutions of three taps by Winograd's minimal filtering: geometries, accuracy, and where it is taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastseg.ops import dense_conv
from tests.ops.dense_conv_cases import Case
from tests.support import (
    assert_same_bits,
    assert_within_budget,
    for_thread_counts,
    rerun_with_capability,
    run,
)

pytestmark = pytest.mark.usefixtures("nan_poisoned_convolutions")


def image(batch: int, inputs: int, outputs: int, size: tuple[int, ...], padding: int = 1, **more: object) -> Case:
    rank = len(size)
    return Case(batch, inputs, outputs, size, (3,) * rank, (1,) * rank, (padding,) * rank, **more)


CASES = (
    image(1, 16, 16, (32, 32)),
    image(2, 20, 70, (33, 47)),  # tiles that are half outside, two blocks of outputs
    image(1, 33, 17, (40, 24), padding=0),
    image(1, 17, 33, (21, 30), padding=2),
    image(1, 16, 20, (20, 26), padding=3),  # tiles of nothing but padding
    image(1, 150, 24, (24, 24)),  # weights in runs of inputs
    image(1, 24, 150, (24, 24)),
    image(1, 16, 16, (6, 300)),  # rows of tiles in pieces
    image(3, 32, 48, (18, 16)),
    image(1, 16, 16, (14, 14, 14)),
    image(2, 20, 40, (9, 12, 15)),
    image(1, 40, 20, (13, 12, 18), padding=0),
    image(1, 16, 24, (8, 9, 10), padding=2),
    Case(2, 24, 20, (5, 24, 18), (1, 3, 3), (1, 1, 1), (0, 1, 1)),  # slice by slice
    Case(1, 20, 24, (4, 20, 20), (1, 3, 3), (1, 1, 1), (1, 1, 1)),  # and slices of nothing but padding
    image(1, 32, 32, (32, 32), padding=2, dilation=(2, 2)),
    image(2, 20, 70, (47, 70), padding=5, dilation=(3, 7)),  # phases of different lengths
    image(1, 24, 17, (52, 60), padding=0, dilation=(4, 6)),
    image(1, 16, 16, (14, 300), padding=3, dilation=(2, 3)),  # phases in pieces
    image(1, 16, 16, (6, 300), dilation=(1, 16)),
    image(1, 20, 40, (16, 17, 26), padding=3, dilation=(2, 1, 4)),
    image(2, 24, 20, (17, 15, 12), padding=2, dilation=(2, 2, 2)),
    Case(2, 24, 20, (5, 26, 24), (1, 3, 3), (1, 1, 1), (0, 2, 3), (5, 2, 3)),  # a dilation of one tap
    image(1, 20, 32, (28, 40), padding=4, dilation=(2, 3), transposed=True),
    image(1, 32, 20, (24, 26), transposed=True),
    image(1, 20, 32, (12, 11, 10), transposed=True),
)


def is_taken(case: Case) -> bool:
    """Whether y is computed in tiles: there an infinity is subtracted from itself, direct products leave it one."""
    x, weight, *_ = case.inputs_of(torch.float32)
    x[(0, 0, *(n // 2 for n in case.size))] = float("inf")
    return bool(case.ours(x, weight).isnan().any())


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "channel_slice"))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_wider_arithmetic(case, layout):
    assert is_taken(case)
    case.check(torch.float32, layout)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", (CASES[1], CASES[10]), ids=str)
def test_sixteen_bits(case, layout, dtype):
    case.check(dtype, layout)


@st.composite
def cases(draw) -> Case:
    rank = draw(st.integers(2, 3))
    size = draw(st.tuples(*[st.integers(7, 40) if rank == 2 else st.integers(5, 14)] * rank))
    padding = draw(st.tuples(*[st.integers(0, 3)] * rank))
    kernel = (draw(st.sampled_from((1, 3))), 3, 3)[-rank:] if rank == 3 else (3, 3)
    dilation = draw(st.tuples(*[st.integers(1, 3)] * rank))
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    channels = st.integers(16, 80)
    return Case(draw(st.integers(1, 3)), draw(channels), draw(channels), size, kernel, (1,) * rank, padding, dilation)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases(), layout=st.sampled_from(("contiguous", "channels_last")))
def test_any_geometry(case, layout):
    case.check(torch.float32, layout)


@pytest.mark.parametrize("positive", (False, True))
@pytest.mark.parametrize(
    "case",
    (
        image(1, 256, 64, (32, 32)),
        image(1, 64, 64, (16, 16, 16)),
        image(1, 128, 64, (48, 48), padding=4, dilation=(4, 4)),
    ),
    ids=str,
)
def test_as_accurate_as_direct_products(case, positive):
    """The error budget of numbers that a network has, without an allowance for what was added up."""
    numbers = case.inputs_of(torch.float32)
    if positive:
        numbers[0], numbers[3] = numbers[0].relu(), numbers[3].relu()
    exact = run(case.torchs, [t.double() for t in numbers])
    pairs = zip(run(case.ours, numbers), exact, run(case.torchs, numbers), strict=True)
    for name, (actual, truth, peer) in zip(("y", "dx", "dweight"), list(pairs)[:3], strict=True):
        assert_within_budget(actual, truth, peer, name)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", (CASES[1], CASES[10], CASES[16], image(1, 16, 300, (18, 18))), ids=str)
def test_same_bits_for_every_number_of_threads(case, layout):
    numbers = case.inputs_of(torch.float32)
    assert_same_bits(for_thread_counts((1, 3, 4), lambda: run(case.ours, numbers, layout)))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_outputs_past_the_caches(layout):
    for width in (256, 250):
        case = image(2, 16, 48, (180, width))
        assert case.inputs_of(torch.float32)[3].nbytes > 16 << 20
        case.check(torch.float32, layout)


@pytest.mark.parametrize(
    "case",
    (
        image(1, 8, 64, (64, 64)),  # less than a vector of channels
        image(1, 64, 64, (8, 8)),  # too few tiles for the weights
        image(64, 16, 16, (5, 5)),  # tiles half outside
        image(1, 32, 32, (32, 32), padding=10, dilation=(10, 10)),  # phases of a few pixels
        Case(1, 32, 32, (32, 32), (3, 3), (2, 2), (1, 1)),
        Case(1, 32, 32, (32, 32), (5, 5), (1, 1), (2, 2)),
    ),
    ids=str,
)
def test_where_it_is_not_taken(case):
    assert not is_taken(case)


def test_double_precision_is_direct():
    x, weight, *_ = (t.double() for t in CASES[0].inputs_of(torch.float32))
    x[0, 3, 15, 15] = float("inf")
    assert not dense_conv(x, weight, padding=1).isnan().any()


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
@pytest.mark.parametrize("case", (CASES[0], CASES[10]), ids=str)
def test_what_is_not_finite_stays_where_it_is(case, value):
    """Though infinities may become NaN."""
    x, weight, *_ = case.inputs_of(torch.float32)
    x[(0, 3, *(n // 2 for n in case.size))] = value
    torch.testing.assert_close(case.ours(x, weight).isfinite(), case.torchs(x, weight).isfinite())


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    rerun_with_capability(__file__, capability, "wider_arithmetic or past_the_caches or same_bits")
