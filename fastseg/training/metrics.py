"""What a predicted mask is worth against the true one: ratios of voxels, and the distance of the surfaces.

Masks are bool of any shape, NumPy, CuPy or torch, both of the same. A ratio that is 0/0, such as the recall where
there is nothing to find, is 1 where prediction and truth agree in every voxel, else 0: with both masks empty all scores
are perfect, and with one of them empty Dice, IoU, precision and recall are 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from fastseg.ops.arrays import Array
from fastseg.training.masks import checked_masks, checked_spacing
from fastseg.training.roc import RocCurve, auc, roc_curve

__all__ = [
    "Counts",
    "RocCurve",
    "accuracy",
    "auc",
    "counts",
    "diagonal",
    "dice",
    "f1",
    "hausdorff95",
    "iou",
    "precision",
    "recall",
    "roc_curve",
    "specificity",
]


class Counts(NamedTuple):
    """Voxels: found and true, found but not true, true but not found, neither; and the ratios of them."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def dice(self) -> float:
        return self._ratio(2 * self.true_positive, self.false_positive + self.false_negative)

    @property
    def iou(self) -> float:
        return self._ratio(self.true_positive, self.false_positive + self.false_negative)

    @property
    def precision(self) -> float:
        return self._ratio(self.true_positive, self.false_positive)

    @property
    def recall(self) -> float:
        return self._ratio(self.true_positive, self.false_negative)

    @property
    def specificity(self) -> float:
        return self._ratio(self.true_negative, self.false_positive)

    @property
    def accuracy(self) -> float:
        return (self.true_positive + self.true_negative) / sum(self)

    def _ratio(self, good: int, bad: int) -> float:
        """good / (good + bad); 0/0 is 1 where nothing is wrong, else 0."""
        if good + bad:
            return good / (good + bad)
        return float(self.false_positive == self.false_negative == 0)


def counts(pred: Array, truth: Array) -> Counts:
    """The confusion matrix of two masks.

    Raises:
        TypeError, ValueError: no masks of bool, of different shapes, or without a voxel.
    """
    found, true = checked_masks("counts", pred, truth)
    both, of_found, of_true = (int(mask.sum()) for mask in (found & true, found, true))
    return Counts(both, of_found - both, of_true - both, found.numel() - of_found - of_true + both)


def dice(pred: Array, truth: Array) -> float:
    """2 TP / (2 TP + FP + FN). Both masks empty: 1; one of them: 0."""
    return counts(pred, truth).dice


def f1(pred: Array, truth: Array) -> float:
    """The harmonic mean of precision and recall, which for masks is Dice by another name."""
    return dice(pred, truth)


def iou(pred: Array, truth: Array) -> float:
    """Intersection over union, the Jaccard index: TP / (TP + FP + FN). Both masks empty: 1; one of them: 0."""
    return counts(pred, truth).iou


def precision(pred: Array, truth: Array) -> float:
    """TP / (TP + FP), the share of what was found that is true. Nothing found: 1 if there is nothing to find, or 0."""
    return counts(pred, truth).precision


def recall(pred: Array, truth: Array) -> float:
    """TP / (TP + FN), the share of the truth that was found; sensitivity. Nothing to find: 1 if nothing was, else 0."""
    return counts(pred, truth).recall


def specificity(pred: Array, truth: Array) -> float:
    """TN / (TN + FP), the share of what is not true that was not found. The truth everywhere: 1 if found so, else 0."""
    return counts(pred, truth).specificity


def accuracy(pred: Array, truth: Array) -> float:
    """(TP + TN) / all voxels."""
    return counts(pred, truth).accuracy


def hausdorff95(
    pred: Array,
    truth: Array,
    *,
    spacing: float | Sequence[float] = 1.0,
    percentile: float = 95,
    one_empty: float = math.inf,
) -> float:
    """The distance within which 95 % of each surface lies from the other, the larger of both directions (MONAI's).

    A surface is made of the voxels of a mask that share a face with one outside of it; beyond the image is outside.

    Args:
        pred, truth: masks of two or three axes.
        spacing: size of a voxel, in mm, one number or one for each axis. The result has its unit.
        percentile: 100 is the Hausdorff distance itself.
        one_empty: the result where one mask is empty and the other is not; :func:`diagonal` is a finite one.

    Returns:
        The distance; 0 where both masks are empty.

    Raises:
        TypeError, ValueError: as :func:`counts`, another rank, a spacing that is not positive, or a percentile out of
            (0, 100].
        ImportError: MONAI is not installed.
    """
    found, true = checked_masks("hausdorff95", pred, truth)
    if found.ndim not in (2, 3):
        raise ValueError(f"hausdorff95: pred has shape {tuple(found.shape)}, expected two or three axes")
    steps = checked_spacing("hausdorff95", spacing, found.ndim)
    if not 0 < percentile <= 100:  # written so that NaN is refused
        raise ValueError(f"hausdorff95: percentile is {percentile}, expected a number above 0, 100 at most")
    present = bool(found.any()), bool(true.any())
    if not all(present):
        return one_empty if any(present) else 0.0
    try:
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    except ImportError as error:
        raise ImportError('hausdorff95 needs monai: pip install "fastseg-kernels[segmentation]"') from error
    one_case = found[None, None], true[None, None]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # MONAI 1.5 and 1.6 warn of an argument that they pass themselves
        distance = compute_hausdorff_distance(*one_case, include_background=True, percentile=percentile, spacing=steps)
    return float(distance)


def diagonal(shape: Sequence[int], spacing: float | Sequence[float] = 1.0) -> float:
    """From corner to corner of an image, in the unit of ``spacing``: 373.1 mm for BraTS."""
    steps = checked_spacing("diagonal", spacing, len(shape))
    return math.hypot(*(size * step for size, step in zip(shape, steps, strict=True)))
