"""Scores of a segmentation against the truth, region by region."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastseg.ops.arrays import Array, as_tensor
from fastseg.training.metrics import auc, counts, hausdorff95

_NAME = "evaluate_segmentation"
#: The scores of a region and what a table calls them. F1 is Dice, and sensitivity is recall.
SCORES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "hausdorff95": "HD95",
    "auc": "AUC",
}


@dataclass(frozen=True)
class RegionScores:
    """The scores of one region; :mod:`fastseg.training.metrics` says what they are where a mask is empty.

    Attributes:
        voxels: of the truth.
        found: of the prediction.
        hausdorff95: in mm; infinite where one of both masks is empty, if no other value was asked for.
        auc: NaN without probabilities, or where the truth is empty or everywhere.
    """

    voxels: int
    found: int
    dice: float
    iou: float
    precision: float
    recall: float
    specificity: float
    accuracy: float
    hausdorff95: float
    auc: float = math.nan


@dataclass(frozen=True)
class SegmentationScores:
    """Scores by region: ``scores["WT"].dice``. ``str`` makes a table."""

    regions: Mapping[str, RegionScores]

    def __getitem__(self, region: str) -> RegionScores:
        return self.regions[region]

    def as_dict(self) -> dict[str, Any]:
        """The numbers ready for JSON, which has neither NaN nor infinity: None for them."""
        return {
            name: {key: value if math.isfinite(value) else None for key, value in asdict(scores).items()}
            for name, scores in self.regions.items()
        }

    def __str__(self) -> str:
        shown = shown_scores([self])
        rows = [["region", "voxels", "found", *(SCORES[score] for score in shown)]]
        for name, scores in self.regions.items():
            values = [written(score, getattr(scores, score)) for score in shown]
            rows.append([name, str(scores.voxels), str(scores.found), *values])
        return table(rows)


def evaluate_segmentation(
    pred: Array,
    truth: Array,
    *,
    labels: Iterable[int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    spacing: float | Sequence[float] = 1.0,
    probabilities: Array | None = None,
    one_empty: float = math.inf,
) -> SegmentationScores:
    """How well labels agree with the truth, for each label or each region.

    Args:
        pred, truth: (X, Y, Z) or (H, W), integers or bool: NumPy, CuPy or torch.
        labels: score each of these by itself; other labels count as background.
        regions: score these unions of labels, such as :data:`fastseg.segmentation.labels.REGIONS`. One of ``labels``
            and ``regions`` must be given.
        spacing: size of a voxel in mm, one number or one for each axis.
        probabilities: (K, X, Y, Z) or (K, H, W), of the labels or regions in their order, for the AUC.
        one_empty: the Hausdorff distance where one of both masks is empty.

    Raises:
        TypeError, ValueError: another dtype or shape, both or none of ``labels`` and ``regions``, or with ``regions`` a
            label that is in none of them.
    """
    found, true = _label_map("pred", pred), _label_map("truth", truth)
    if found.shape != true.shape:
        raise ValueError(f"{_NAME}: pred has shape {tuple(found.shape)}, expected the truth's {tuple(true.shape)}")
    members = _members(labels, regions)
    if regions is not None:
        for name, values in (("pred", found), ("truth", true)):
            _check_labels(name, values, members)
    of_each: Mapping[str, Array] | None = None
    if probabilities is not None:
        stack = as_tensor(_NAME, "probabilities", probabilities)
        if tuple(stack.shape) != (len(members), *true.shape):
            raise ValueError(
                f"{_NAME}: probabilities has shape {tuple(stack.shape)}, expected {(len(members), *true.shape)}: one "
                f"map for each of {', '.join(members)}"
            )
        of_each = dict(zip(members, stack, strict=True))
    masks = [{name: _is_in(values, members[name]) for name in members} for values in (found, true)]
    return evaluate_masks(*masks, spacing=spacing, probabilities=of_each, one_empty=one_empty)


def evaluate_masks(
    pred: Mapping[str, Array],
    truth: Mapping[str, Array],
    *,
    spacing: float | Sequence[float] = 1.0,
    probabilities: Mapping[str, Array] | None = None,
    one_empty: float = math.inf,
) -> SegmentationScores:
    """:func:`evaluate_segmentation` of masks: region -> bool (X, Y, Z) or (H, W), and its probabilities.

    Raises:
        TypeError, ValueError: other names in one mapping than in ``truth``, none at all, or masks as
            :func:`~fastseg.training.metrics.hausdorff95` refuses them.
    """
    if not truth:
        raise ValueError("evaluate_masks: truth is empty, expected at least one region")
    for argument, given in (("pred", pred), ("probabilities", probabilities)):
        if given is not None and set(given) != set(truth):
            raise ValueError(
                f"evaluate_masks: {argument} has the regions {', '.join(given) or 'none'}, expected {', '.join(truth)}"
            )
    scores = {}
    for name, true in truth.items():
        c = counts(pred[name], true)
        scores[name] = RegionScores(
            voxels=c.true_positive + c.false_negative,
            found=c.true_positive + c.false_positive,
            dice=c.dice,
            iou=c.iou,
            precision=c.precision,
            recall=c.recall,
            specificity=c.specificity,
            accuracy=c.accuracy,
            hausdorff95=hausdorff95(pred[name], true, spacing=spacing, one_empty=one_empty),
            auc=math.nan if probabilities is None else auc(probabilities[name], true),
        )
    return SegmentationScores(scores)


def shown_scores(cases: Iterable[SegmentationScores]) -> list[str]:
    """The scores that a table has columns for: AUC only where a case has one."""
    has_auc = any(not math.isnan(region.auc) for scores in cases for region in scores.regions.values())
    return [score for score in SCORES if score != "auc" or has_auc]


def written(score: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if score == "hausdorff95" else f"{value:.4f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]))
    return "\n".join(lines)


def _members(labels: Iterable[int] | None, regions: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    if (labels is None) == (regions is None):
        raise ValueError(f"{_NAME}: labels is {labels} and regions is {regions}, expected one of them")
    members = {str(label): (label,) for label in labels or ()} if regions is None else dict(regions)
    if not members or not all(members.values()):
        raise ValueError(f"{_NAME}: {'labels' if regions is None else 'regions'} is empty or has an empty one")
    if any(0 in values for values in members.values()):
        raise ValueError(f"{_NAME}: label 0 is the background, expected labels of regions")
    return {name: tuple(values) for name, values in members.items()}


def _label_map(name: str, array: Array) -> Tensor:
    values = as_tensor(_NAME, name, array)
    if values.is_floating_point() or values.is_complex():
        raise TypeError(f"{_NAME}: {name} is {values.dtype}, expected integers: a label for each voxel")
    return values.to(torch.uint8) if values.dtype == torch.bool else values


def _check_labels(name: str, values: Tensor, members: Mapping[str, Sequence[int]]) -> None:
    known = {0, *(label for labels in members.values() for label in labels)}
    strange = sorted(set(values.unique().tolist()) - known)
    if strange:
        raise ValueError(f"{_NAME}: {name} has the label {strange[0]}, which is in none of {', '.join(members)}")


def _is_in(values: Tensor, labels: Sequence[int]) -> Tensor:
    return torch.isin(values, torch.tensor(labels, dtype=torch.int64, device=values.device))
