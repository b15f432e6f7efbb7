"""The losses of the papers: the losses of :mod:`fastseg.ops`, with each paper's weights and sums."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from fastseg.models.network import Output
from fastseg.ops import dice_cross_entropy, focal_tversky, generalized_dice
from fastseg.ops.loss_arguments import ClassWeights, check_options


class SegmentationLoss(nn.Module):
    """A loss of logits (N, K, *spatial) against a truth; a scalar, float32, for float64 logits float64.

    With ``output="softmax"`` the truth is a map of classes (N, *spatial), whole numbers from 0 to K - 1. With
    ``"sigmoid"`` it is a map of regions (N, K, *spatial), bool or numbers from 0 to 1. Errors are those of
    :func:`fastseg.ops.dice_cross_entropy`.

    Attributes:
        name: under which :func:`create_loss` makes it.
    """

    name: ClassVar[str]

    def __init__(self, output: Output, class_weights: ClassWeights = None, **options: float) -> None:
        super().__init__()
        check_options(self.name, output=output, class_weights=class_weights, **options)
        self.output: Output = output

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class CrossEntropy(SegmentationLoss):
    """Cross-entropy, the mean over voxels; binary for sigmoid, the mean over regions, too. Paper D.

    Args:
        class_weights: as :func:`fastseg.ops.dice_cross_entropy` takes them.
    """

    name = "cross_entropy"

    def __init__(self, *, output: Output = "softmax", class_weights: ClassWeights = None) -> None:
        super().__init__(output, class_weights)
        self.class_weights = class_weights

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return dice_cross_entropy(logits, target, dice_weight=0.0, output=self.output, class_weights=self.class_weights)


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
        super().__init__(output, class_weights, dice_weight=dice_weight, ce_weight=ce_weight, smooth=smooth)
        self.dice_weight, self.ce_weight = dice_weight, ce_weight
        self.include_background = include_background or output == "sigmoid"
        self.batch, self.smooth, self.class_weights = batch, smooth, class_weights

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return dice_cross_entropy(
            logits,
            target,
            dice_weight=self.dice_weight,
            ce_weight=self.ce_weight,
            output=self.output,
            include_background=self.include_background,
            batch=self.batch,
            smooth=self.smooth,
            class_weights=self.class_weights,
        )


class GeneralizedDiceCrossEntropy(SegmentationLoss):
    """Generalised Dice plus weighted cross-entropy of classes. Paper C, stage 1.

    1 - 2 sum_l w_l sum r_l p_l / sum_l w_l sum (r_l + p_l) with w_l = 1 / (sum r_l)^2, sums over all voxels of the
    batch. A class that is absent has the largest weight of those that are there: its weight by the formula is infinite.

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
        if output == "sigmoid":
            raise ValueError(f"{self.name}: output is {output!r}, expected 'softmax': w_l compares classes")
        super().__init__(output, class_weights, ce_weight=ce_weight)
        self.ce_weight, self.batch, self.class_weights = ce_weight, batch, class_weights

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return generalized_dice(
            logits, target, batch=self.batch, ce_weight=self.ce_weight, class_weights=self.class_weights
        )


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
        super().__init__(output, smooth=smooth)
        self.smooth, self.batch = smooth, batch

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        one_less = dice_cross_entropy(
            logits, target, ce_weight=0.0, output=self.output, batch=self.batch, smooth=self.smooth
        )
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

    def __init__(
        self,
        *,
        output: Output = "sigmoid",
        fn_weight: float = 0.7,
        fp_weight: float = 0.3,
        gamma: float = 0.75,
        smooth: float = 1.0,
    ) -> None:
        super().__init__(output, fn_weight=fn_weight, fp_weight=fp_weight, gamma=gamma, smooth=smooth)
        self.options: dict[str, Any] = {
            "fn_weight": fn_weight,
            "fp_weight": fp_weight,
            "gamma": gamma,
            "smooth": smooth,
            "include_background": output == "sigmoid",
        }

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return focal_tversky(logits, target, output=self.output, batch=True, **self.options)
