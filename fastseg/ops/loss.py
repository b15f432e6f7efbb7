"""Losses of segmentation networks: overlap (Dice, Tversky) and cross-entropy of logits, in one pass and one back."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from fastseg import reference
from fastseg.backends.loss_call import Formula
from fastseg.ops.loss_arguments import ClassWeights, Output, check_options
from fastseg.ops.loss_registered import segmentation_loss


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    output: Output = "softmax",
    include_background: bool = True,
    batch: bool = False,
    smooth: float = 1e-5,
    class_weights: ClassWeights = None,
    ignore_index: int = -100,
) -> Tensor:
    r"""Dice loss plus cross-entropy, of logits.

    .. math:: L = w_D \left(1 - \operatorname{mean}_l \frac{2 \sum r_l p_l + s}{\sum r_l + \sum p_l + s}\right) + w_C H

    p are the probabilities, r the truth, sums are over voxels (Milletari et al. 2016, arXiv:1606.04797; with
    cross-entropy as in nnU-Net, Isensee et al. 2021). H is the mean over voxels of -log p of the true class; binary
    for ``output="sigmoid"``, the mean over voxels and regions.

    Args:
        logits: (N, K, *spatial) with one or more spatial axes; float32, float64, bfloat16 or float16, any strides
            (contiguous and channels-last are read as they lie).
        target: with ``"softmax"`` a map of classes, (N, *spatial) or (N, 1, *spatial), whole numbers of any integer
            or floating dtype that has them; with ``"sigmoid"`` K regions, (N, K, *spatial), bool or numbers from 0 to
            1. Not differentiated.
        dice_weight: w_D. With 0 the loss is the cross-entropy.
        ce_weight: w_C. With 0 it is the Dice loss.
        output: ``"softmax"``, one class a voxel, or ``"sigmoid"``, regions that may overlap.
        include_background: whether Dice counts class 0.
        batch: sums over the whole batch; otherwise image by image, and the mean over images.
        smooth: s, in voxels, above 0: Dice of a class that is absent from truth and prediction is 1.
        class_weights: of the cross-entropy (softmax only), whose mean over voxels is then a weighted one: K numbers, or
            ``"balanced"``: each class of the batch counts the same, one that is absent counts nothing.
        ignore_index: voxels of this class count nowhere (softmax only).

    Returns:
        Scalar, float32, for float64 logits float64. Computed in float32 (float64), sums in float64. That of a perfect
        prediction where no voxel counts.

    Raises:
        ValueError: wrong shape, device or option; on the CPU also a target that is no class, or not from 0 to 1. On
            GPUs, where looking would wait for the device, such a target makes the loss NaN.
        TypeError: logits or target of a dtype that is not taken.

    For backward it keeps logits and target and computes the probabilities again. Not twice differentiable: use
    ``fastseg.backend("reference")`` for that.
    """
    op = "dice_cross_entropy"
    check_options(
        op,
        output=output,
        class_weights=class_weights,
        dice_weight=dice_weight,
        ce_weight=ce_weight,
        smooth=smooth,
        ignore_index=ignore_index,
    )
    formula = Formula(
        overlap_weight=dice_weight,
        ce_weight=ce_weight,
        smooth=smooth / 2,
        batch=batch,
        include_background=include_background,
        balanced=isinstance(class_weights, str),
    )
    definition = partial(reference.dice_cross_entropy, dice_weight=dice_weight, smooth=smooth)
    return segmentation_loss(op, definition, logits, target, formula, output, class_weights, ignore_index)


def tversky(
    logits: Tensor,
    target: Tensor,
    *,
    fp_weight: float = 0.5,
    fn_weight: float = 0.5,
    output: Output = "softmax",
    include_background: bool = True,
    batch: bool = False,
    smooth: float = 1e-5,
    ce_weight: float = 0.0,
    class_weights: ClassWeights = None,
    ignore_index: int = -100,
) -> Tensor:
    r"""Tversky loss of logits, the mean over classes of one minus Tversky's index.

    .. math:: L = \operatorname{mean}_l \left(1 - \frac{TP_l + s}{TP_l + \alpha FP_l + \beta FN_l + s}\right) + w_C H

    with TP = sum r p, FP = sum (1 - r) p, FN = sum r (1 - p) (Salehi et al. 2017, arXiv:1706.05721).

    Args:
        fp_weight: alpha, what a false voxel counts.
        fn_weight: beta, what a missed voxel counts.
        smooth: s, in voxels, above 0.
        ce_weight: w_C, of the cross-entropy H beside it.

    The other arguments, the result and the errors are those of :func:`dice_cross_entropy`.
    """
    return _tversky("tversky", logits, target, fp_weight, fn_weight, 1.0, output, include_background, batch, smooth,
                    ce_weight, class_weights, ignore_index)  # fmt: skip


def focal_tversky(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 0.75,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    output: Output = "softmax",
    include_background: bool = True,
    batch: bool = False,
    smooth: float = 1e-5,
    ce_weight: float = 0.0,
    class_weights: ClassWeights = None,
    ignore_index: int = -100,
) -> Tensor:
    r"""Focal Tversky loss of logits.

    .. math:: L = \operatorname{mean}_l (1 - TI_l)^\gamma + w_C H

    with the index TI of :func:`tversky` (Abraham & Khan 2019, arXiv:1810.07842, whose gamma is one over this one).

    Args:
        gamma: the exponent, above 0. Below 1 the slope at a perfect prediction would be infinite: the loss is flat
            where 1 - TI < 1e-7.

    The other arguments are those of :func:`tversky`, the result and the errors those of :func:`dice_cross_entropy`.
    """
    return _tversky("focal_tversky", logits, target, fp_weight, fn_weight, gamma, output, include_background, batch,
                    smooth, ce_weight, class_weights, ignore_index)  # fmt: skip


def generalized_dice(
    logits: Tensor,
    target: Tensor,
    *,
    output: Output = "softmax",
    include_background: bool = True,
    batch: bool = False,
    ce_weight: float = 0.0,
    class_weights: ClassWeights = None,
    ignore_index: int = -100,
) -> Tensor:
    r"""Generalised Dice loss of logits, whose classes weigh one over the square of their voxels.

    .. math:: L = 1 - 2 \frac{\sum_l w_l \sum r_l p_l}{\sum_l w_l \sum (r_l + p_l)} + w_C H, \quad
              w_l = 1 / (\textstyle\sum r_l)^2

    (Sudre et al. 2017, arXiv:1707.03237). A class that is absent from the truth, whose weight would be infinite, has
    the largest weight of those that are there.

    Args:
        ce_weight: w_C, of the cross-entropy H beside it.

    The other arguments, the result and the errors are those of :func:`dice_cross_entropy`.
    """
    op = "generalized_dice"
    check_options(op, output=output, class_weights=class_weights, ce_weight=ce_weight, ignore_index=ignore_index)
    formula = Formula(
        generalized=True,
        ce_weight=ce_weight,
        batch=batch,
        include_background=include_background,
        balanced=isinstance(class_weights, str),
    )
    return segmentation_loss(
        op, reference.generalized_dice, logits, target, formula, output, class_weights, ignore_index
    )


def _tversky(
    op: str,
    logits: Tensor,
    target: Tensor,
    fp_weight: float,
    fn_weight: float,
    gamma: float,
    output: Output,
    include_background: bool,
    batch: bool,
    smooth: float,
    ce_weight: float,
    class_weights: ClassWeights,
    ignore_index: int,
) -> Tensor:
    check_options(
        op,
        output=output,
        class_weights=class_weights,
        fp_weight=fp_weight,
        fn_weight=fn_weight,
        gamma=gamma,
        ce_weight=ce_weight,
        smooth=smooth,
        ignore_index=ignore_index,
    )
    formula = Formula(
        ce_weight=ce_weight,
        fp_weight=fp_weight,
        fn_weight=fn_weight,
        smooth=smooth,
        gamma=gamma,
        batch=batch,
        include_background=include_background,
        balanced=isinstance(class_weights, str),
    )
    definition = partial(reference.tversky, fp_weight=fp_weight, fn_weight=fn_weight, gamma=gamma, smooth=smooth)
    return segmentation_loss(op, definition, logits, target, formula, output, class_weights, ignore_index)
