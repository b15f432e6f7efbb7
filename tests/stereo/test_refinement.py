"""The steps after the winner, each against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastseg.stereo import (
    fill_invalid,
    left_right_check,
    median_filter,
    peak_confidence,
    subpixel_offset,
    wls_refine,
)

SIZES = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 12))


def whole(size: tuple[int, ...], last: int, seed: int) -> Tensor:
    return torch.randint(0, last, size, generator=torch.Generator().manual_seed(seed)).float()


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_left_right_check_looks_at_the_pixel_that_was_matched(
    size: tuple[int, ...], seed: int, tolerance: float
) -> None:
    left, right = whole(size, 5, seed) - 1 + 0.25, whole(size, 5, seed + 1) - 1
    found = left_right_check(left, right, tolerance=tolerance)
    for index in np.ndindex(*size):
        *row, x = index
        target = x - round(float(left[index]))
        agrees = 0 <= target < size[-1] and abs(float(left[index]) - float(right[(*row, target)])) <= tolerance
        assert bool(found[index]) == agrees


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(0, 99))
def test_fill_takes_the_smaller_neighbour_on_the_row(size: tuple[int, ...], seed: int) -> None:
    values = whole(size, 9, seed)
    valid = whole(size, 3, seed + 1) > 1
    found = fill_invalid(values, valid)
    for index in np.ndindex(*size):
        *row, x = index
        known = [i for i in range(size[-1]) if valid[(*row, i)]]
        if valid[index] or not known:
            expected = values[index]
        else:
            nearest = [max((i for i in known if i < x), default=None), min((i for i in known if i > x), default=None)]
            expected = min(values[(*row, i)] for i in nearest if i is not None)
        assert found[index] == expected


def test_parabola_finds_the_minimum_of_a_parabola() -> None:
    place = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)
    before, cost, after = (3 * (d - place) ** 2 + 1 for d in (-1, 0, 1))
    torch.testing.assert_close(subpixel_offset(before, cost, after), place, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "costs",
    [(math.inf, 1.0, 2.0), (2.0, 1.0, math.inf), (math.inf, 1.0, math.inf), (1.0, 1.0, 1.0), (0.5, 1.0, 2.0)],
)
def test_parabola_stays_where_it_knows_nothing(costs: tuple[float, float, float]) -> None:
    assert subpixel_offset(*(torch.tensor([c]) for c in costs)).tolist() == [0.0]


@settings(deadline=None, max_examples=30)
@given(SIZES, st.integers(0, 99))
def test_median_of_nine(size: tuple[int, ...], seed: int) -> None:
    image = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    padded = np.pad(image.numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    assert np.array_equal(median_filter(image.numpy()), np.median(windows, axis=(-2, -1)).astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.float32, torch.float64])
def test_numbers_of_any_dtype_mean_the_same(dtype: torch.dtype) -> None:
    left, right = torch.full((1, 8), 3, dtype=dtype), torch.full((1, 8), 4, dtype=dtype)
    assert left_right_check(left, right).tolist() == [[False] * 3 + [True] * 5]
    costs = (torch.tensor([c], dtype=dtype) for c in (2, 1, 3))
    assert subpixel_offset(*costs).item() == pytest.approx(-1 / 6, abs=1e-3)
    share = peak_confidence(torch.tensor([1], dtype=dtype), torch.tensor([4], dtype=dtype))
    assert share.item() == 0.75
    filled = fill_invalid(left, torch.tensor([[True] + [False] * 7]))
    assert filled.dtype == dtype and torch.equal(filled, left)


def test_confidence_is_the_share_by_which_the_best_is_better() -> None:
    cost = torch.tensor([1.0, 2.0, 0.0, 0.0, 3.0])
    second = torch.tensor([4.0, 2.0, 1.0, 0.0, math.inf])
    assert peak_confidence(cost, second).tolist() == [0.75, 0.0, 1.0, 0.0, 1.0]
    # Where nothing was found nothing is sure, and where all costs are next to nothing their order says little.
    assert peak_confidence(torch.tensor([math.inf]), torch.tensor([math.inf])).tolist() == [0.0]
    assert peak_confidence(torch.tensor([-1e-9]), torch.tensor([1e-6])).item() < 0.01


def test_wls_refinement_keeps_planes_and_ignores_what_has_no_confidence() -> None:
    guide = torch.full((12, 15), 0.5)
    plane = torch.full((12, 15), 7.0)
    confidence = torch.ones(12, 15)
    confidence[4:6, 5:9] = 0
    broken = torch.where(confidence > 0, plane, 40.0)
    found = wls_refine(broken, confidence, guide, lambda_=1.0)
    torch.testing.assert_close(found, plane, rtol=1e-3, atol=0)
    assert torch.equal(wls_refine(broken, torch.zeros_like(plane), guide), broken)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: left_right_check(torch.zeros(3, 4), torch.zeros(3, 5)), ValueError, r"right has shape \(3, 5\)"),
        (lambda: fill_invalid(torch.zeros(3, 4), torch.zeros(3, 4)), TypeError, "valid is torch.float32"),
        (lambda: fill_invalid(np.zeros((3, 4)), np.zeros((3, 5), bool)), ValueError, r"valid has shape \(3, 5\)"),
        (
            lambda: wls_refine(torch.zeros(3, 4), torch.zeros(4), torch.zeros(3, 4)),
            ValueError,
            r"confidence has shape \(4,\)",
        ),
        (
            lambda: median_filter(torch.zeros(3, 4, dtype=torch.uint8)),
            TypeError,
            "image is torch.uint8, expected float",
        ),
        (lambda: wls_refine(torch.zeros(3, 4).int(), torch.zeros(3, 4), torch.zeros(3, 4)), TypeError, "disparity is"),
        (lambda: left_right_check([[1.0]], torch.zeros(1, 1)), TypeError, "left is a list"),
    ],
)
def test_errors_name_argument_value_and_expectation(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]


def test_numpy_in_numpy_out() -> None:
    left, right = np.ones((4, 6), np.float32), np.ones((4, 6), np.float32)
    valid = left_right_check(left, right)
    assert isinstance(valid, np.ndarray) and valid.dtype == bool and valid[:, 1:].all() and not valid[:, 0].any()
    assert isinstance(fill_invalid(left, valid), np.ndarray)
