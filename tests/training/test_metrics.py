"""Metrics of masks against values counted by hand and by other libraries, and what they are at the edges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastseg.training import metrics
from fastseg.training.metrics import auc, counts, diagonal, hausdorff95, roc_curve

RATIOS = ("dice", "f1", "iou", "precision", "recall", "specificity", "accuracy")
EMPTY, FULL = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
SOME = np.indices(EMPTY.shape).sum(0) % 3 == 0


def ratio(name: str) -> Callable[..., float]:
    return getattr(metrics, name)


def flags(text: str) -> np.ndarray:
    return np.array([character == "1" for character in text])


def test_counts_and_ratios_by_hand() -> None:
    pred, truth = flags("1111100000"), flags("1110011000")
    assert counts(pred, truth) == (3, 2, 2, 3)
    pred, truth = flags("1111000000"), flags("1110011000")
    assert counts(pred, truth) == (3, 1, 2, 4)
    expected = (6 / 9, 6 / 9, 3 / 6, 3 / 4, 3 / 5, 4 / 5, 7 / 10)
    assert {name: ratio(name)(pred, truth) for name in RATIOS} == dict(zip(RATIOS, expected, strict=True))


@pytest.mark.parametrize(
    ("pred", "truth", "expected"),
    [
        (EMPTY, EMPTY, (1, 1, 1, 1, 1, 1, 1)),
        (EMPTY, FULL, (0, 0, 0, 0, 0, 0, 0)),
        (FULL, EMPTY, (0, 0, 0, 0, 0, 0, 0)),
        (FULL, FULL, (1, 1, 1, 1, 1, 1, 1)),
        (EMPTY, SOME, (0, 0, 0, 0, 0, 1, 2 / 3)),
        (SOME, EMPTY, (0, 0, 0, 0, 0, 2 / 3, 2 / 3)),
        (SOME, FULL, (0.5, 0.5, 1 / 3, 1, 1 / 3, 0, 1 / 3)),
    ],
)
def test_ratios_at_the_edges(pred: np.ndarray, truth: np.ndarray, expected: tuple[float, ...]) -> None:
    assert SOME.mean() == 1 / 3
    assert tuple(ratio(name)(pred, truth) for name in RATIOS) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_ratios_agree_with_each_other(voxels: list[tuple[bool, bool]]) -> None:
    pred, truth = np.array(voxels, bool).T.copy()
    values = {name: ratio(name)(pred, truth) for name in RATIOS}
    assert all(0 <= value <= 1 for value in values.values())
    assert values["dice"] == pytest.approx(2 * values["iou"] / (1 + values["iou"]))
    assert values["recall"] == ratio("precision")(truth, pred)
    both = values["precision"] + values["recall"]
    assert values["f1"] == pytest.approx(2 * values["precision"] * values["recall"] / both if both else 0)
    assert values["specificity"] == ratio("recall")(~pred, ~truth)


@pytest.mark.parametrize("name", [*RATIOS, "hausdorff95"])
def test_torch_and_numpy_give_the_same(name: str) -> None:
    pred = np.roll(SOME, 1, 2)
    pred[0] = False
    expected = ratio(name)(pred, SOME)
    assert ratio(name)(torch.from_numpy(pred), torch.from_numpy(SOME)) == expected
    assert ratio(name)(pred[::-1], torch.from_numpy(SOME[::-1].copy())) == expected


def surface_distances(pred: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> list[np.ndarray]:
    """All pairs of the voxels of both surfaces."""
    points = []
    for mask in (pred, truth):
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(mask.ndim):
            inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
        points.append((np.argwhere(padded & ~inner) - 1) * np.array(spacing))
    apart = np.sqrt(np.square(points[0][:, None] - points[1][None]).sum(-1))
    return [apart.min(1), apart.min(0)]


@pytest.mark.parametrize("percentile", [95, 100, 50])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_hausdorff_distance(spacing: tuple[float, float, float], percentile: float) -> None:
    pytest.importorskip("monai")
    x, y, z = np.indices((14, 13, 12))
    pred = (x - 5) ** 2 + (y - 6) ** 2 + (z - 5) ** 2 < 16
    truth = (x - 8) ** 2 + (y - 5) ** 2 / 2 + (z - 9) ** 2 < 20  # cut by the border of the image
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = hausdorff95(pred, truth, spacing=spacing, percentile=percentile)
    expected = max(np.percentile(each, percentile) for each in surface_distances(pred, truth, spacing))
    assert result == pytest.approx(expected, rel=1e-6)


def test_hausdorff_distance_of_single_voxels() -> None:
    pytest.importorskip("monai")
    pred, truth = np.zeros((2, 8, 9), bool)
    pred[1, 2] = truth[4, 6] = True
    assert hausdorff95(pred, truth) == 5
    assert hausdorff95(pred, truth, spacing=2) == 10
    assert hausdorff95(pred, truth, spacing=(2, 0.25)) == pytest.approx(math.hypot(6, 1))
    assert hausdorff95(pred, pred) == 0


def test_hausdorff_distance_of_empty_masks() -> None:
    assert hausdorff95(EMPTY, EMPTY) == 0
    assert hausdorff95(EMPTY, SOME) == hausdorff95(SOME, EMPTY) == math.inf
    assert hausdorff95(SOME, EMPTY, one_empty=374.0) == 374
    assert diagonal((240, 240, 155)) == pytest.approx(373.13, abs=0.005)
    assert diagonal((3, 5), (1, 2)) == math.hypot(3, 10)


def auc_by_pairs(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mann and Whitney: the share of pairs in the right order, ties count half."""
    true, false = probabilities[truth][:, None], probabilities[~truth][None]
    return np.mean((true > false) + 0.5 * (true == false))


@pytest.mark.parametrize("levels", [3, 10**6])
def test_area_under_the_roc_curve(levels: int) -> None:
    rng = np.random.default_rng(levels)
    truth = rng.random((9, 8, 7)) < 0.3
    values = np.floor(levels * (rng.random(truth.shape) + 0.3 * truth)) / levels
    expected = auc_by_pairs(values, truth)
    assert 0.6 < expected < 0.9
    assert auc(values, truth) == pytest.approx(expected, rel=1e-12)
    assert auc(torch.from_numpy(values).bfloat16(), truth) == pytest.approx(
        auc_by_pairs(torch.from_numpy(values).bfloat16().double().numpy(), truth), rel=1e-12
    )
    assert auc(-values, truth) == pytest.approx(1 - expected, rel=1e-12)


def test_roc_curve_by_hand() -> None:
    curve = roc_curve(np.array([0.9, 0.8, 0.8, 0.3, 0.1]), flags("11010"))
    assert curve.thresholds.tolist() == [math.inf, 0.9, 0.8, 0.3, 0.1]
    assert curve.true_positive_rate.tolist() == [0, 1 / 3, 2 / 3, 1, 1]
    assert curve.false_positive_rate.tolist() == [0, 0, 0.5, 0.5, 1]
    assert auc(np.array([0.9, 0.8, 0.8, 0.3, 0.1]), flags("11010")) == pytest.approx(0.5 * (1 / 3 + 2 / 3) / 2 + 0.5)


def test_each_point_of_the_curve_is_a_threshold() -> None:
    rng = np.random.default_rng(1)
    truth, values = rng.random(50) < 0.4, rng.integers(0, 9, 50) / 8
    for fpr, tpr, threshold in zip(*roc_curve(values, truth), strict=True):
        assert tpr == ratio("recall")(values >= threshold, truth)
        assert fpr == pytest.approx(1 - ratio("specificity")(values >= threshold, truth), abs=1e-15)


def test_auc_without_one_of_both_kinds() -> None:
    assert math.isnan(auc(np.ones(EMPTY.shape), EMPTY)) and math.isnan(auc(np.ones(EMPTY.shape), FULL))
    assert auc(np.full(SOME.shape, 0.5), SOME) == 0.5
    with pytest.raises(ValueError, match="truth has 0 of 60 voxels, expected some and not all"):
        roc_curve(np.ones(EMPTY.shape), EMPTY)


@pytest.mark.parametrize("name", [*RATIOS, "hausdorff95"])
def test_what_is_no_pair_of_masks(name: str) -> None:
    function = "hausdorff95" if name == "hausdorff95" else "counts"
    with pytest.raises(TypeError, match=f"{function}: pred is torch.int64, expected bool"):
        ratio(name)(SOME.astype(int), SOME)
    with pytest.raises(TypeError, match=f"{function}: truth is torch.float32, expected bool"):
        ratio(name)(SOME, torch.zeros(SOME.shape))
    with pytest.raises(ValueError, match=rf"{function}: pred has shape \(3, 4\), expected the truth's \(3, 4, 5\)"):
        ratio(name)(SOME[..., 0], SOME)
    with pytest.raises(ValueError, match=rf"{function}: pred has shape \(0, 4, 5\), expected at least one voxel"):
        ratio(name)(SOME[:0], SOME[:0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": (1, 1)}, r"spacing is \(1, 1\), expected a number > 0 for each of 3 axes"),
        ({"spacing": 0}, "spacing is 0, expected a number > 0"),
        ({"spacing": (1, math.nan, 1)}, r"spacing is \(1, nan, 1\), expected"),
        ({"percentile": 0}, "percentile is 0, expected a number above 0, 100 at most"),
        ({"percentile": math.nan}, "percentile is nan"),
    ],
)
def test_arguments_of_hausdorff95(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hausdorff95(EMPTY, EMPTY, **options)


def test_masks_of_other_ranks_have_no_surface_here() -> None:
    with pytest.raises(ValueError, match=r"pred has shape \(60,\), expected two or three axes"):
        hausdorff95(SOME.ravel(), SOME.ravel())


def test_what_is_no_probability() -> None:
    with pytest.raises(TypeError, match=r"probabilities is torch\.bool, expected floating point"):
        auc(SOME, SOME)
    with pytest.raises(ValueError, match=r"probabilities has shape \(2,\), expected the truth's \(3, 4, 5\)"):
        roc_curve(np.ones(2), SOME)
    with pytest.raises(ValueError, match="roc_curve: probabilities has 60 values that are NaN or infinite"):
        auc(np.full(SOME.shape, np.nan), SOME)
