"""Scores of segmentations by region, their table, and their summary and test over cases."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("monai")

from fastseg.segmentation.labels import REGIONS
from fastseg.training import metrics
from fastseg.training.evaluation import (
    SCORES,
    RegionScores,
    SegmentationScores,
    evaluate_masks,
    evaluate_segmentation,
)
from fastseg.training.summary import paired_test, summarize


def volumes() -> tuple[np.ndarray, np.ndarray]:
    """A tumour of three nested shells, and the same moved and worn."""
    x, y, z = np.indices((16, 14, 12))
    radius = np.sqrt((x - 7) ** 2 + (y - 6) ** 2 + (z - 5.5) ** 2)
    truth = np.select([radius < 2, radius < 3.2, radius < 5], [1, 4, 2], 0).astype(np.uint8)
    pred = np.roll(truth, 1, 0)
    pred[:, :5] = 0
    return pred, truth


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_regions_are_unions_of_labels(kind: str) -> None:
    pred, truth = volumes()
    probabilities = np.random.default_rng(0).random((3, *truth.shape)).astype(np.float32)
    given = [array if kind == "numpy" else torch.from_numpy(array) for array in (pred, truth, probabilities)]
    spacing = (1, 0.5, 3)
    scores = evaluate_segmentation(*given[:2], regions=REGIONS, spacing=spacing, probabilities=given[2])
    assert list(scores.regions) == ["WT", "TC", "ET"]
    for index, (name, labels) in enumerate(REGIONS.items()):
        found, true = np.isin(pred, labels), np.isin(truth, labels)
        region = scores[name]
        assert (region.voxels, region.found) == (true.sum(), found.sum())
        for score in SCORES.keys() - {"hausdorff95", "auc"}:
            assert getattr(region, score) == getattr(metrics, score)(found, true)
        assert region.hausdorff95 == metrics.hausdorff95(found, true, spacing=spacing) > 0
        assert region.auc == metrics.auc(probabilities[index], true)


def test_labels_by_themselves() -> None:
    pred, truth = volumes()
    scores = evaluate_segmentation(pred, truth, labels=[2, 9], one_empty=7.0)
    assert list(scores.regions) == ["2", "9"]
    assert scores["2"].dice == metrics.dice(pred == 2, truth == 2)
    assert (scores["9"].dice, scores["9"].hausdorff95) == (1, 0)
    assert math.isnan(scores["2"].auc)
    empty = evaluate_segmentation(np.zeros_like(pred), truth, labels=[2], one_empty=7.0)
    assert (empty["2"].dice, empty["2"].hausdorff95) == (0, 7)
    boolean = evaluate_segmentation(pred > 0, truth > 0, labels=[1])
    assert boolean["1"] == evaluate_segmentation(pred, truth, regions=REGIONS)["WT"]


REGION = RegionScores(10, 8, 0.5, 0.25, 0.75, 1.0, 0.99999, 0.9, math.inf)


def test_table_and_json() -> None:
    scores = SegmentationScores({"WT": REGION})
    assert str(scores).splitlines() == [
        "region  voxels  found    Dice     IoU  precision  recall  specificity  accuracy  HD95",
        "WT          10      8  0.5000  0.2500     0.7500  1.0000       1.0000    0.9000   inf",
    ]
    read = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert read["WT"]["dice"] == 0.5 and read["WT"]["hausdorff95"] is None and read["WT"]["auc"] is None
    assert list(read["WT"]) == ["voxels", "found", *SCORES]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ValueError, "labels is None and regions is None, expected one of them"),
        ({"labels": [1], "regions": REGIONS}, ValueError, "expected one of them"),
        ({"labels": []}, ValueError, "labels is empty"),
        ({"regions": {"a": ()}}, ValueError, "regions is empty or has an empty one"),
        ({"labels": [0]}, ValueError, "label 0 is the background"),
        ({"regions": {"a": (1, 2)}}, ValueError, "pred has the label 4, which is in none of a"),
        ({"labels": [1], "pred": np.zeros(3)}, TypeError, r"pred is torch\.float64, expected integers"),
        ({"labels": [1], "truth": np.zeros((3, 3), int)}, ValueError, r"expected the truth's \(3, 3\)"),
        ({"labels": [1], "probabilities": np.zeros((2, 3))}, ValueError, r"expected \(1, 16, 14, 12\): one map"),
    ],
)
def test_what_cannot_be_scored(change: dict, error: type[Exception], message: str) -> None:
    pred, truth = volumes()
    with pytest.raises(error, match=message):
        evaluate_segmentation(**{"pred": pred, "truth": truth, **change})


def test_masks_need_the_same_names() -> None:
    mask = np.ones((2, 2), bool)
    with pytest.raises(ValueError, match="pred has the regions a, expected a, b"):
        evaluate_masks({"a": mask}, {"a": mask, "b": mask})
    with pytest.raises(ValueError, match="probabilities has the regions none, expected a"):
        evaluate_masks({"a": mask}, {"a": mask}, probabilities={})
    with pytest.raises(ValueError, match="truth is empty"):
        evaluate_masks({}, {})


def case(dice: float, distance: float) -> SegmentationScores:
    return SegmentationScores({"WT": RegionScores(1, 1, dice, 0.5, 0.5, 0.5, 0.5, 0.5, distance)})


def test_summary() -> None:
    summary = summarize({"a": case(0.5, 1), "b": case(0.75, math.inf), "c": case(1.0, 4)})
    dice, distance = summary["WT"]["dice"], summary["WT"]["hausdorff95"]
    assert (dice.mean, dice.median, dice.std, dice.cases, dice.left_out) == (0.75, 0.75, 0.25, 3, 0)
    assert (distance.mean, distance.cases, distance.left_out) == (2.5, 2, 1)
    assert "auc" not in summary["WT"]
    lines = str(summary).splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["WT", "mean", "0.7500"],
        ["WT", "median", "0.7500"],
        ["WT", "std", "0.2500"],
    ]
    assert lines[4:] == ["HD95 of WT: 1 of 3 cases have none"]
    json.dumps(summary.as_dict(), allow_nan=False)


def test_summary_of_one_case_and_of_none() -> None:
    alone = summarize({"a": case(0.5, math.inf)})
    assert alone.as_dict()["WT"]["dice"] == {"mean": 0.5, "median": 0.5, "std": None, "cases": 1, "left_out": 0}
    assert alone.as_dict()["WT"]["hausdorff95"]["mean"] is None
    with pytest.raises(ValueError, match="cases is empty"):
        summarize({})
    with pytest.raises(ValueError, match=r"b has the regions \['ET'\], expected \['WT'\]"):
        summarize({"a": case(1, 1), "b": SegmentationScores({"ET": REGION})})


OURS = {"a": 0.9, "b": 0.8, "c": 0.85, "d": 0.7, "e": 0.95, "f": 0.6}
THEIRS = {"f": 0.62, "a": 0.84, "b": 0.71, "c": 0.82, "d": 0.69, "e": 0.90}


def test_wilcoxon_by_hand() -> None:
    """Differences .06 .09 .03 .01 .05 -.02: the one negative has rank 2, and of the 2^6 signs 6 have a sum up to 2."""
    result = paired_test(OURS, THEIRS)
    assert (result.statistic, result.cases) == (2, 6)
    assert result.p_value == pytest.approx(2 * 3 / 64)
    assert result.difference == pytest.approx(0.04)
    assert paired_test(OURS, THEIRS, alternative="greater").p_value == pytest.approx(3 / 64)


def test_t_test_by_its_formula() -> None:
    stats = pytest.importorskip("scipy.stats")
    result = paired_test(OURS, THEIRS, test="t")
    differences = np.array([OURS[name] - THEIRS[name] for name in OURS])
    statistic = differences.mean() / (differences.std(ddof=1) / math.sqrt(6))
    assert result.statistic == pytest.approx(statistic)
    assert result.p_value == pytest.approx(2 * stats.t.sf(statistic, 5))
    assert result.difference == pytest.approx(differences.mean())


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_models_that_do_not_differ(test: str) -> None:
    result = paired_test(OURS, dict(OURS), test=test)
    assert (result.statistic, result.p_value, result.difference, result.cases) == (0, 1, 0, 6)


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        (OURS, {"a": 1.0}, {}, r"b is a case of one model only \(5 in all\)"),
        ({"a": 1.0}, {"a": 1.0}, {}, "there are 1 cases, expected at least 2"),
        (OURS, {**OURS, "b": math.nan}, {}, "the score of b is nan, expected a finite number"),
        (OURS, THEIRS, {"test": "f"}, "test is 'f', expected one of 'wilcoxon', 't'"),
        (OURS, THEIRS, {"alternative": "more"}, "alternative is 'more', expected one of"),
    ],
)
def test_what_cannot_be_tested(first: dict, second: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_test(first, second, **options)
