"""The ROC curve of probabilities against a mask, and the area under it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastseg.ops.arrays import Array, as_tensor, check_numbers
from fastseg.training.masks import checked_mask


class RocCurve(NamedTuple):
    """A point for each threshold: (T,) float64, from the strictest threshold to the mildest.

    Attributes:
        false_positive_rate: 1 - specificity, from 0 to 1.
        true_positive_rate: recall, from 0 to 1.
        thresholds: a voxel is found where its probability is at least this; infinity at first, so that none is.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def roc_curve(probabilities: Array, truth: Array) -> RocCurve:
    """The ROC curve over all thresholds; voxels of equal probability make one point.

    Args:
        probabilities: numbers of any shape; only their order counts.
        truth: a mask of the same shape, with and without true voxels.

    Raises:
        TypeError, ValueError: another shape or dtype, NaN or infinity, a truth that is empty or everywhere.
    """
    true = checked_mask("roc_curve", "truth", truth)
    values = as_tensor("roc_curve", "probabilities", probabilities).detach()
    if not values.is_floating_point():
        raise TypeError(f"roc_curve: probabilities is {values.dtype}, expected floating point")
    if values.shape != true.shape:
        raise ValueError(
            f"roc_curve: probabilities has shape {tuple(values.shape)}, expected the truth's {tuple(true.shape)}"
        )
    check_numbers("roc_curve", "probabilities", values)
    positives = int(true.sum())
    if positives in (0, true.numel()):
        raise ValueError(f"roc_curve: truth has {positives} of {true.numel()} voxels, expected some and not all")
    ordered, places = values.flatten().sort(descending=True)
    found = true.flatten()[places.to(true.device)].cpu().numpy().cumsum(dtype=np.int64)
    thresholds = ordered.double().cpu().numpy()
    last = np.append(np.flatnonzero(np.diff(thresholds)), thresholds.size - 1)  # of the voxels that are equal
    true_rate = found[last] / positives
    false_rate = (last + 1 - found[last]) / (true.numel() - positives)
    starts = ((0.0, false_rate), (0.0, true_rate), (np.inf, thresholds[last]))
    return RocCurve(*(np.concatenate([[start], points]) for start, points in starts))


def auc(probabilities: Array, truth: Array) -> float:
    """The area under the ROC curve: how likely a true voxel has a higher probability than one that is not.

    NaN where the truth is empty or everywhere. Arguments and errors are those of :func:`roc_curve`.
    """
    true = checked_mask("auc", "truth", truth)
    if int(true.sum()) in (0, true.numel()):
        return math.nan
    curve = roc_curve(probabilities, true)
    x, y = curve.false_positive_rate, curve.true_positive_rate
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
