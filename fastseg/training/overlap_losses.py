"""Losses of overlap: Dice and Tversky, whose sums are MONAI's, and generalised Dice."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

try:
    from monai.losses.dice import DiceLoss
    from monai.losses.tversky import TverskyLoss
except ImportError as error:
    raise ImportError('Losses of overlap need monai: pip install "fastseg-kernels[training]"') from error

from fastseg.models.network import Output
from fastseg.ops.checks import check_not_negative
from fastseg.training.cross_entropy import ClassWeights, CrossEntropy
from fastseg.training.segmentation_loss import SegmentationLoss, check_positive


class DiceCrossEntropy(SegmentationLoss):
    """``dice_weight`` (1 - Dice) + ``ce_weight`` cross-entropy, Dice = (2 sum rp + s) / (sum r + sum p + s). Paper E.

    Dice is the mean over classes or regions. Where one is absent from truth and prediction its Dice is 1.

    Args:
        include_background: whether Dice counts class 0 (softmax only). (choice)
        batch: sum over the whole batch, or image by image and take the mean. (choice)
        smooth: s, in voxels. (choice)
        class_weights: of the cross-entropy, as :class:`CrossEntropy` takes them.
    """

    name = "dice_cross_entropy"

    def __init__(
        self,
        *,
        output: Output = "softmax",
        dice_weight: float = 0.7,
        ce_weight: float = 0.3,
        include_background: bool = False,
        batch: bool = True,
        smooth: float = 1e-5,
        class_weights: ClassWeights = None,
    ) -> None:
        super().__init__(output)
        for argument, number in (("dice_weight", dice_weight), ("ce_weight", ce_weight)):
            check_not_negative(self.name, argument, number)
        check_positive(self.name, "smooth", smooth)
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.cross_entropy = CrossEntropy(output=output, class_weights=class_weights)
        self.dice = DiceLoss(
            include_background=include_background or output == "sigmoid",
            batch=batch,
            smooth_nr=smooth,
            smooth_dr=smooth,
            softmax=output == "softmax",
            sigmoid=output == "sigmoid",
        )

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        dice: Tensor = self.dice(logits, self.truth(logits, target))
        return self.dice_weight * dice + self.ce_weight * self.cross_entropy.value(logits, target)


class GeneralizedDiceCrossEntropy(SegmentationLoss):
    """Generalised Dice plus weighted cross-entropy of classes. Paper C, stage 1.

    1 - 2 sum_l w_l sum r_l p_l / sum_l w_l sum (r_l + p_l) with w_l = 1 / (sum r_l)^2, sums over all voxels of the
    batch. A class that is absent has the largest weight of those that are there, as in MONAI: its weight by the formula
    is infinite.

    Args:
        class_weights: of the cross-entropy, as :class:`CrossEntropy` takes them. (choice: balanced)
        ce_weight: of the cross-entropy beside the generalised Dice; the paper adds them.
        batch: sum over the whole batch, or image by image and take the mean. (choice)
    """

    name = "generalized_dice_cross_entropy"

    def __init__(
        self,
        *,
        output: Output = "softmax",
        class_weights: ClassWeights = "balanced",
        ce_weight: float = 1.0,
        batch: bool = True,
    ) -> None:
        super().__init__(output)
        if output != "softmax":
            raise ValueError(f"{self.name}: output is {output!r}, expected 'softmax': w_l compares classes")
        check_not_negative(self.name, "ce_weight", ce_weight)
        self.ce_weight = ce_weight
        self.cross_entropy = CrossEntropy(class_weights=class_weights)
        self.batch = batch

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        # Not MONAI's: it computes the weights in float32 even for float64, and its smoothing is of sums that are
        # divided by squares of counts. Every voxel has a class, so no smoothing is needed.
        axes = (0, 2) if self.batch else (2,)
        p = torch.softmax(logits, 1).flatten(2)
        r = self.truth(logits, target).flatten(2)
        counts = r.sum(axes)
        weights = torch.where(counts > 0, 1 / counts.clamp_min(1).square(), 0)
        weights = torch.where(counts > 0, weights, weights.amax(-1, keepdim=True))
        shared, total = ((weights * each.sum(axes)).sum(-1) for each in (p * r, p + r))
        dice = (1 - 2 * shared / total).mean()
        return dice + self.ce_weight * self.cross_entropy.value(logits, target)


class RegionDice(SegmentationLoss):
    """-(1/L) sum_l (2 sum r_l p_l + s) / (sum r_l + sum p_l + s): from -1, the best, to 0. Paper C, stage 2.

    L regions. Sums are over the voxels of an image, then comes the mean over regions and images. A region that is
    absent from the truth adds -s / (sum p + s).

    Args:
        smooth: s, in voxels. (choice)
        batch: sum over the whole batch.
    """

    name = "region_dice"

    def __init__(self, *, output: Output = "sigmoid", smooth: float = 1e-5, batch: bool = False) -> None:
        super().__init__(output)
        check_positive(self.name, "smooth", smooth)
        self.dice = DiceLoss(
            batch=batch, smooth_nr=smooth, smooth_dr=smooth, softmax=output == "softmax", sigmoid=output == "sigmoid"
        )

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        one_less: Tensor = self.dice(logits, self.truth(logits, target))
        return one_less - 1


class FocalTversky(SegmentationLoss):
    """(1 - TI)^gamma, TI = (TP + s) / (TP + fn_weight FN + fp_weight FP + s) over the whole batch. Paper F.

    With several regions the mean over them (choice); with softmax class 0, the background, is left out.

    Args:
        fn_weight, fp_weight: what a missed voxel and a false one count.
        gamma: the exponent.
        smooth: s, in voxels. (choice)
    """

    name = "focal_tversky"
    # The power has an infinite slope at 0, where a perfect prediction would get NaN; below this it is flat.
    _LEAST: ClassVar[float] = 1e-7

    def __init__(
        self,
        *,
        output: Output = "sigmoid",
        fn_weight: float = 0.7,
        fp_weight: float = 0.3,
        gamma: float = 0.75,
        smooth: float = 1.0,
    ) -> None:
        super().__init__(output)
        for argument, number in (("fn_weight", fn_weight), ("fp_weight", fp_weight)):
            check_not_negative(self.name, argument, number)
        for argument, number in (("gamma", gamma), ("smooth", smooth)):
            check_positive(self.name, argument, number)
        self.gamma = gamma
        self.tversky = TverskyLoss(
            include_background=output == "sigmoid",
            alpha=fp_weight,
            beta=fn_weight,
            smooth_nr=smooth,
            smooth_dr=smooth,
            batch=True,
            reduction="none",
            softmax=output == "softmax",
            sigmoid=output == "sigmoid",
        )

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        one_less: Tensor = self.tversky(logits, self.truth(logits, target))
        return one_less.clamp_min(self._LEAST).pow(self.gamma).mean()
