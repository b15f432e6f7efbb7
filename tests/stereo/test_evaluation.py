"""Scores of disparity maps: by hand, against plain loops, on real pairs, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastseg import ops
from fastseg.stereo import RegionScores, StereoScores, evaluate_disparity, middlebury_masks, rendered_pair
from tests.support import data_file

NAN, INF = math.nan, math.inf
#: Errors 0, 0.75, 1, 3, none, none; the last two columns have no truth.
OURS = np.array([[5, 5.75, 6], [2, NAN, INF], [7, 7, NAN]], np.float32)
TRUTH = np.array([[5, 5, 5], [5, 5, 5], [NAN, INF, -INF]], np.float32)


def test_by_hand() -> None:
    scores = evaluate_disparity(OURS, TRUTH)["known"]
    assert scores.pixels == 6
    assert scores.invalid == 2 / 6
    assert dict(scores.bad) == {0.5: 5 / 6, 1: 3 / 6, 2: 3 / 6, 4: 2 / 6}  # an error of exactly 1 is not bad at 1
    assert scores.average == (0.75 + 1 + 3) / 4
    assert scores.rms == pytest.approx(math.sqrt((0.75**2 + 1 + 9) / 4), rel=1e-15)


def test_valid_counts_apart_and_the_filled_disparity_is_scored() -> None:
    valid = np.array([[True, False, True], [False, True, True], [False, False, False]])
    scores = evaluate_disparity(OURS, TRUTH, valid=valid)["known"]
    assert scores.invalid == 4 / 6
    everything = evaluate_disparity(OURS, TRUTH)["known"]
    assert (scores.bad, scores.average, scores.rms) == (everything.bad, everything.average, everything.rms)


def test_only_valid_pixels() -> None:
    valid = np.array([[True, False, True], [False, True, True], [False, False, False]])
    scores = evaluate_disparity(OURS, TRUTH, valid=valid, only_valid=True)["known"]
    assert (scores.pixels, scores.invalid) == (6, 4 / 6)
    assert dict(scores.bad) == {0.5: 1 / 2, 1: 0, 2: 0, 4: 0}
    assert (scores.average, scores.rms) == (0.5, pytest.approx(math.sqrt(0.5)))


def test_regions_and_unknown() -> None:
    masks = {"top": np.array([[True] * 3, [False] * 3, [True] * 3]), "none": np.zeros((3, 3), bool)}
    scores = evaluate_disparity(OURS, np.where(OURS == 6, 0, TRUTH), masks=masks, unknown=0, thresholds=[0.7])
    assert scores["top"] == RegionScores(2, 0, {0.7: 0.5}, 0.375, pytest.approx(0.75 / math.sqrt(2)))
    empty = scores["none"]
    assert empty.pixels == 0
    assert all(math.isnan(value) for value in (empty.invalid, *empty.bad.values(), empty.average, empty.rms))


def test_a_region_without_any_disparity() -> None:
    scores = evaluate_disparity(np.full((2, 2), NAN), np.ones((2, 2)))["known"]
    assert (scores.invalid, scores.bad[4]) == (1, 1) and math.isnan(scores.average) and math.isnan(scores.rms)
    alone = evaluate_disparity(np.full((2, 2), NAN), np.ones((2, 2)), only_valid=True)["known"]
    assert alone.invalid == 1 and math.isnan(alone.bad[4])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.booleans(), st.booleans())
def test_against_loops(seed: int, height: int, width: int, with_valid: bool, only_valid: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (height, width)
    ours = np.round(rng.uniform(0, 8, shape), 1)
    true = np.round(ours + rng.choice([0, 0.5, 1, 1.5, -2.5, 5], shape), 1)
    ours[rng.random(shape) < 0.2], true[rng.random(shape) < 0.2] = rng.choice([NAN, INF, -INF], 2)
    mask = rng.random(shape) < 0.7
    valid = rng.random(shape) < 0.6 if with_valid else None
    scores = evaluate_disparity(
        ours, true, masks={"m": mask}, valid=valid, thresholds=(0.25, 1.2, 3), only_valid=only_valid
    )["m"]
    pixels = invalid = scored = 0
    bad = dict.fromkeys((0.25, 1.2, 3.0), 0)
    errors = []
    for at in np.ndindex(shape):
        if not mask[at] or not math.isfinite(true[at]):
            continue
        pixels += 1
        good = math.isfinite(ours[at]) and (valid is None or valid[at])
        invalid += not good
        if only_valid and not good:
            continue
        scored += 1
        error = abs(ours[at] - true[at]) if math.isfinite(ours[at]) else INF
        errors += [error] if error < INF else []
        for threshold in bad:
            bad[threshold] += error > threshold

    def share(count: float, of: int) -> object:
        return pytest.approx(count / of if of else NAN, rel=1e-12, nan_ok=True)

    assert scores.pixels == pixels and scores.invalid == share(invalid, pixels)
    for threshold, count in bad.items():
        assert scores.bad[threshold] == share(count, scored)
    assert scores.average == share(sum(errors), len(errors))
    assert scores.rms**2 == share(sum(error * error for error in errors), len(errors))


def test_kinds_of_arrays() -> None:
    masks = {"left": np.array([[True, True, False]] * 3)}
    expected = evaluate_disparity(OURS, TRUTH, masks=masks)
    tensor = torch.from_numpy(OURS).requires_grad_()
    assert evaluate_disparity(tensor, TRUTH, masks=masks) == expected
    torch_masks = {"left": torch.from_numpy(masks["left"])}
    assert evaluate_disparity(OURS[::-1], torch.from_numpy(TRUTH).flip(0), masks=torch_masks) == expected
    whole = evaluate_disparity(torch.tensor([[3, 4]], dtype=torch.int16), np.array([[3, 6]], np.uint8))
    assert whole["known"].average == 1
    # bfloat16 holds 1.0078125; what counts is the number that it holds.
    short = evaluate_disparity(torch.tensor([[1.0078125]], dtype=torch.bfloat16), np.ones((1, 1)))
    assert short["known"].average == 0.0078125


def test_table() -> None:
    masks = {"nonocc": np.array([[True, True, True]] * 3), "disc": np.zeros((3, 3), bool)}
    scores = evaluate_disparity(OURS, TRUTH, masks=masks)
    assert str(scores).splitlines() == [
        "region  pixels  invalid  bad 0.5    bad 1    bad 2    bad 4  average    RMS",
        "nonocc       6  33.33 %  83.33 %  50.00 %  50.00 %  33.33 %    1.188  1.625",
        "disc         0        -        -        -        -        -        -      -",
    ]
    assert str(evaluate_disparity(OURS, TRUTH, only_valid=True)).endswith("those of the valid pixels")


def test_json() -> None:
    scores = evaluate_disparity(OURS, TRUTH, masks={"a": np.ones((3, 3), bool), "b": np.zeros((3, 3), bool)})
    read = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert read["regions"]["a"]["bad"] == {"0.5": 5 / 6, "1": 0.5, "2": 0.5, "4": 2 / 6}
    assert read["regions"]["b"] == {"pixels": 0, "bad": dict.fromkeys(("0.5", "1", "2", "4")), "invalid": None,
                                    "average": None, "rms": None}  # fmt: skip
    assert read["only_valid"] is False


ONES = np.ones((2, 3))
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank": ({"disparity": np.ones((1, 2, 3))}, ValueError, r"disparity has shape \(1, 2, 3\), expected \(H, W\)"),
    "size": ({"truth": np.ones((3, 2))}, ValueError, r"truth has shape \(3, 2\), expected the disparity's \(2, 3\)"),
    "bool": ({"truth": ONES > 0}, TypeError, "truth is torch.bool, expected real numbers"),
    "list": ({"disparity": [[1.0]]}, TypeError, "disparity is a list"),
    "mask of bytes": ({"masks": {"disc": np.ones((2, 3), np.uint8)}}, TypeError, r"masks\['disc'\] is torch.uint8"),
    "size of mask": ({"masks": {"all": np.ones((2, 2), bool)}}, ValueError, r"masks\['all'\] has shape \(2, 2\)"),
    "no mask": ({"masks": {}}, ValueError, "masks is empty, expected at least one region"),
    "valid": ({"valid": ONES}, TypeError, "valid is torch.float64, expected bool"),
    "no threshold": ({"thresholds": ()}, ValueError, "thresholds is empty"),
    "threshold": ({"thresholds": (1, NAN)}, ValueError, "thresholds is nan, expected a finite number >= 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    arguments, error, message = REFUSED[case]
    with pytest.raises(error, match=f"evaluate_disparity: {message}"):
        evaluate_disparity(**{"disparity": ONES, "truth": ONES, **arguments})


def test_middlebury_masks() -> None:
    image = np.array([[0, 128, 255]], np.uint8)
    masks = middlebury_masks(disc=image, nonocc=np.array([[0, 255, 255]], np.uint8))
    assert list(masks) == ["nonocc", "disc"]
    assert masks["disc"].dtype == bool and masks["disc"].tolist() == [[False, False, True]]
    assert masks["nonocc"].tolist() == [[False, True, True]]
    (alone,) = middlebury_masks(all=torch.tensor([[255, 0]], dtype=torch.uint8)).values()
    assert isinstance(alone, torch.Tensor) and alone.tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"nonocc": np.array([[0, 1]], np.uint8)}, ValueError, "nonocc has the value 1, expected 0 and 255"),
        ({"nonocc": np.array([[128]], np.uint8)}, ValueError, "nonocc has the value 128"),
        ({"disc": np.array([[0, 2]], np.uint8)}, ValueError, "disc has the value 2, expected 0 and 128 and 255"),
        ({"all": np.zeros((1, 2, 3), np.uint8)}, ValueError, r"all has shape \(1, 2, 3\), expected \(H, W\)"),
        ({"all": np.zeros((1, 2))}, TypeError, "all is torch.float64, expected uint8"),
        ({}, ValueError, "nonocc, all and disc are None"),
    ],
)
def test_middlebury_masks_refuse(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"middlebury_masks: {message}"):
        middlebury_masks(**arguments)


def filtered(left: np.ndarray, right: np.ndarray, max_disparity: int) -> np.ndarray:
    """The winner of a guided-filtered cost volume, without any refinement."""
    costs = ops.matching_cost(left, right, max_disparity=max_disparity, census_weight=0.005)
    return ops.guided_filter_argmin(left, costs, radius=9, eps=6.5025).index


@pytest.mark.parametrize(("name", "bad"), [("teddy", 0.067), ("cones", 0.033)])
def test_real_pairs(name: str, bad: float) -> None:
    """A plain cost filter is in the range that papers and other programs give for it."""
    image = pytest.importorskip("PIL.Image")

    def grey(file: str) -> np.ndarray:
        return np.array(image.open(data_file(f"stereo/middv2/{name}/{file}.png")).convert("L"))

    left, right = (
        np.ascontiguousarray(np.array(image.open(data_file(f"stereo/middv2/{name}/{file}.png"))).transpose(2, 0, 1))
        for file in ("imL", "imR")
    )
    masks = middlebury_masks(*(grey(region) for region in ("nonocc", "all", "disc")))
    truth = grey("groundtruth").astype(np.float32) / 4
    scores: StereoScores = evaluate_disparity(filtered(left, right, 60), truth, masks=masks, unknown=0)
    assert scores["nonocc"].bad[1] == pytest.approx(bad, abs=0.003)
    assert scores["nonocc"].bad[1] < min(scores["all"].bad[1], scores["disc"].bad[1])
    assert scores["all"].pixels == np.count_nonzero(truth)


def test_rendered_pair_can_be_matched() -> None:
    pair = rendered_pair()
    found = filtered(pair.left, pair.right, 48)
    scores = evaluate_disparity(found, pair.disparity, masks={"seen": ~pair.occluded, "hidden": pair.occluded})
    assert scores["seen"].bad[1] < 0.05 < 0.5 < scores["hidden"].bad[1]
