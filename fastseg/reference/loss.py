"""The loss family in plain PyTorch: the definition, exact in float64, on any device.

A truth that is no class, or not from 0 to 1, makes the loss NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# (1 - index)^gamma has an infinite slope at 0 for gamma < 1, where a perfect prediction would get NaN; below this it
# is flat.
LEAST = 1e-7


class Overlaps(NamedTuple):
    """Sums over the voxels of an image, or of the batch: (N or 1, K)."""

    shared: Tensor  # truth times probability
    predicted: Tensor  # probability
    truth: Tensor


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weight: float,
    ce_weight: float,
    output: str,
    include_background: bool,
    batch: bool,
    smooth: float,
    class_weights: Tensor | str | None,
    ignore_index: int,
) -> Tensor:
    entropy = _entropy(ce_weight, logits, target, output, ignore_index, class_weights)
    if dice_weight == 0:
        return entropy
    o = overlaps(logits, target, output, ignore_index, include_background, batch)
    dice = (2 * o.shared + smooth) / (o.predicted + o.truth + smooth)
    return dice_weight * (1 - dice).mean() + entropy


def tversky(
    logits: Tensor,
    target: Tensor,
    *,
    fp_weight: float,
    fn_weight: float,
    gamma: float,
    ce_weight: float,
    output: str,
    include_background: bool,
    batch: bool,
    smooth: float,
    class_weights: Tensor | str | None,
    ignore_index: int,
) -> Tensor:
    o = overlaps(logits, target, output, ignore_index, include_background, batch)
    wrong = fp_weight * (o.predicted - o.shared) + fn_weight * (o.truth - o.shared)
    miss = wrong / (o.shared + wrong + smooth)  # 1 - index
    if gamma != 1:
        miss = miss.clamp_min(LEAST).pow(gamma)
    return miss.mean() + _entropy(ce_weight, logits, target, output, ignore_index, class_weights)


def generalized_dice(
    logits: Tensor,
    target: Tensor,
    *,
    ce_weight: float,
    output: str,
    include_background: bool,
    batch: bool,
    class_weights: Tensor | str | None,
    ignore_index: int,
) -> Tensor:
    o = overlaps(logits, target, output, ignore_index, include_background, batch)
    weights = torch.where(o.truth > 0, o.truth.clamp_min(torch.finfo(o.truth.dtype).tiny).pow(-2), 0)
    heaviest = weights.amax(-1, keepdim=True)
    weights = torch.where(o.truth > 0, weights, torch.where(heaviest > 0, heaviest, 1))
    wrong = (weights * (o.predicted + o.truth - 2 * o.shared)).sum(-1)
    everything = (weights * (o.predicted + o.truth)).sum(-1)
    loss = torch.where(everything == 0, 0, wrong / torch.where(everything == 0, 1, everything)).mean()
    return loss + _entropy(ce_weight, logits, target, output, ignore_index, class_weights)


def overlaps(
    logits: Tensor, target: Tensor, output: str, ignore_index: int, include_background: bool, batch: bool
) -> Overlaps:
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if output == "sigmoid":
        p, r = torch.sigmoid(z), _regions(target, z)
    else:
        r, counts = _one_hot(target, z, ignore_index)
        # Selected before and after: what lies in voxels that do not count may be NaN, and so would its gradient be.
        p = torch.where(counts, torch.softmax(torch.where(counts, z, 0), 1), 0)
    axes = ((0,) if batch else ()) + tuple(range(2, z.ndim))
    first = 0 if include_background else 1
    shared, predicted, truth = (t.sum(axes, keepdim=batch).reshape(-1, z.shape[1]) for t in (r * p, p, r))
    return Overlaps(shared[:, first:], predicted[:, first:], truth[:, first:])


def _entropy(
    ce_weight: float,
    logits: Tensor,
    target: Tensor,
    output: str,
    ignore_index: int,
    class_weights: Tensor | str | None,
) -> Tensor:
    """What does not count may be infinite."""
    if ce_weight == 0:
        return logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
    return ce_weight * cross_entropy(logits, target, output, ignore_index, class_weights)


def cross_entropy(
    logits: Tensor, target: Tensor, output: str, ignore_index: int, class_weights: Tensor | str | None
) -> Tensor:
    """The mean over voxels, weighted by their classes; binary for sigmoid, the mean over regions, too."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if output == "sigmoid":
        return F.binary_cross_entropy_with_logits(z, _regions(target, z))
    r, counts = _one_hot(target, z, ignore_index)
    axes = (0, *range(2, z.ndim))
    truth = r.sum(axes)
    entropy = torch.where(counts & (r > 0), -F.log_softmax(torch.where(counts, z, 0), 1), 0).sum(axes)
    if isinstance(class_weights, str):  # balanced
        weights = torch.where(truth > 0, 1 / truth.clamp_min(1), 0)
    else:
        weights = torch.ones_like(truth) if class_weights is None else class_weights.to(truth)
    total = (weights * truth).sum()
    return torch.where(weights != 0, weights * entropy, 0).sum() / torch.where(total == 0, 1, total)


def _one_hot(target: Tensor, z: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The truth as (N, K, *spatial), NaN where it is no class; and which voxels count, (N, 1, *spatial)."""
    # Compared in a type that has all classes: -100 as a byte is 156, and bfloat16 has no 257.
    labels = target.reshape(z.shape[0], 1, *z.shape[2:])
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32) if labels.is_floating_point() else torch.int64)
    classes = torch.arange(z.shape[1], device=z.device, dtype=labels.dtype).view(-1, *[1] * (z.ndim - 2))
    r = (labels == classes) & (labels != ignore_index)
    known = r.any(1, keepdim=True)
    wrong = ~known & (labels != ignore_index)
    return torch.where(wrong, torch.nan, r.to(z.dtype)), known | wrong


def _regions(target: Tensor, z: Tensor) -> Tensor:
    r = target.to(z.dtype)
    return torch.where((r >= 0) & (r <= 1), r, torch.nan)
