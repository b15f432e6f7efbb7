"""Losses of segmentation networks: overlap (Dice, Tversky) and cross-entropy of logits, in one pass and one back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.loss_call import SLOPES, Formula
from fastseg.backends.views import ELEMENT, output_like
from fastseg.ops import checks
from fastseg.ops.registry import register

Output = Literal["softmax", "sigmoid"]
#: One number a class, ``"balanced"`` or None.
ClassWeights = Tensor | Sequence[float] | Literal["balanced"] | None


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
            or floating dtype; with ``"sigmoid"`` K regions, (N, K, *spatial), bool or numbers from 0 to 1. Not
            differentiated.
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
        Scalar, float32, for float64 logits float64. Computed in float32 (float64), sums in float64. 0 where no voxel
        counts.

    Raises:
        ValueError: wrong shape, device or option; on the CPU also a target that is no class, or not from 0 to 1. On
            GPUs, where looking would wait for the device, such a target makes the loss NaN.
        TypeError: logits or target of a dtype that is not taken.

    For backward it keeps logits and target and computes the probabilities again. Not twice differentiable: use
    ``fastseg.backend("reference")`` for that.
    """
    op = "dice_cross_entropy"
    check_options(
        op, output=output, class_weights=class_weights, dice_weight=dice_weight, ce_weight=ce_weight, smooth=smooth
    )
    formula = Formula(
        generalized=False,
        overlap_weight=dice_weight,
        ce_weight=ce_weight,
        fp_weight=0.5,
        fn_weight=0.5,
        smooth=smooth / 2,
        gamma=1.0,
        batch=batch,
        include_background=include_background,
        balanced=isinstance(class_weights, str),
    )
    definition = partial(reference.dice_cross_entropy, dice_weight=dice_weight, smooth=smooth)
    return _loss(op, definition, logits, target, formula, output, class_weights, ignore_index)


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
    check_options(op, output=output, class_weights=class_weights, ce_weight=ce_weight)
    formula = Formula(
        generalized=True,
        overlap_weight=1.0,
        ce_weight=ce_weight,
        fp_weight=0.0,
        fn_weight=0.0,
        smooth=0.0,
        gamma=1.0,
        batch=batch,
        include_background=include_background,
        balanced=isinstance(class_weights, str),
    )
    return _loss(op, reference.generalized_dice, logits, target, formula, output, class_weights, ignore_index)


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
    )
    formula = Formula(
        generalized=False,
        overlap_weight=1.0,
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
    return _loss(op, definition, logits, target, formula, output, class_weights, ignore_index)


def _loss(
    op: str,
    definition: Callable[..., Tensor],
    logits: Tensor,
    target: Tensor,
    formula: Formula,
    output: Output,
    class_weights: ClassWeights,
    ignore_index: int,
) -> Tensor:
    _check(op, logits, target, output)
    sigmoid = output == "sigmoid"
    if not formula.include_background and logits.shape[1] == 1:
        raise ValueError(f"{op}: include_background is False, expected True for logits of one class")
    weights = _class_weights(op, class_weights, logits)
    if target.ndim < logits.ndim:
        target = target.unsqueeze(1)
    if select.runs_reference(op, logits):
        if logits.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_values(op, logits, target, sigmoid, ignore_index)
        return definition(
            logits,
            target,
            ce_weight=formula.ce_weight,
            output=output,
            include_background=formula.include_background,
            batch=formula.batch,
            class_weights="balanced" if formula.balanced else weights,
            ignore_index=ignore_index,
        )
    if torch.is_grad_enabled() and logits.requires_grad:
        loss: Tensor = _SegmentationLoss.apply(logits, target, weights, op, sigmoid, ignore_index, formula)
        return loss
    return _forward_op(logits, target, weights, op, sigmoid, ignore_index, *formula)[0]


def check_options(op: str, *, output: str, class_weights: ClassWeights, **options: Any) -> None:
    """Errors of what does not depend on logits and target; options that can be anything are passed over."""
    checks.check_choice(op, "output", output, ("softmax", "sigmoid"))
    for name in options.keys() & {"dice_weight", "ce_weight", "fp_weight", "fn_weight"}:
        checks.check_not_negative(op, name, options[name])
    for name in options.keys() & {"smooth", "gamma"}:
        checks.check_positive(op, name, options[name])
    if class_weights is None:
        return
    if output == "sigmoid":
        raise ValueError(f"{op}: class_weights is {class_weights!r}, expected None for output 'sigmoid'")
    if isinstance(class_weights, str):
        checks.check_choice(op, "class_weights", class_weights, ("balanced",))
    elif not isinstance(class_weights, Tensor):  # looking into a tensor may wait for its device
        for weight in class_weights:
            checks.check_not_negative(op, "class_weights", weight)


def _check(op: str, logits: Tensor, target: Tensor, output: str) -> None:
    shape = tuple(logits.shape)
    if logits.ndim < 3:
        raise ValueError(f"{op}: logits has shape {shape}, expected rank 3 or more: (N, K, *spatial)")
    if logits.dtype not in ELEMENT:
        raise TypeError(f"{op}: logits is {logits.dtype}, expected float32, float64, bfloat16 or float16")
    if logits.numel() == 0:
        raise ValueError(f"{op}: logits has shape {shape}, expected at least one image, class and voxel")
    one = (shape[0], 1, *shape[2:])
    maps = {"softmax": ((shape[0], *shape[2:]), one), "sigmoid": (shape,)}[output]
    if tuple(target.shape) not in maps:
        expected = " or ".join(map(str, maps))
        raise ValueError(
            f"{op}: target has shape {tuple(target.shape)}, expected {expected} for logits of shape {shape} ({output})"
        )
    if target.is_complex() or (output == "softmax" and target.dtype == torch.bool):
        expected = "numbers: a class for each voxel" if output == "softmax" else "bool or numbers from 0 to 1"
        raise TypeError(f"{op}: target is {target.dtype}, expected {expected}")
    if target.requires_grad:
        raise ValueError(f"{op}: target requires a gradient, expected a truth: pass target.detach()")
    checks.check_device(op, "target", target, logits, "logits")


def _class_weights(op: str, class_weights: ClassWeights, logits: Tensor) -> Tensor | None:
    """(K,) in float64 on logits' device; None for None and ``"balanced"``."""
    if class_weights is None or isinstance(class_weights, str):
        return None
    weights = torch.as_tensor(class_weights, dtype=torch.float64, device=logits.device)
    if weights.shape != (logits.shape[1],):
        raise ValueError(
            f"{op}: class_weights has shape {tuple(weights.shape)}, expected ({logits.shape[1]},), one number a class"
        )
    return weights.detach().contiguous()


def _check_values(op: str, logits: Tensor, target: Tensor, sigmoid: bool, ignore_index: int) -> None:
    """What the CPU kernel finds as it reads."""
    most = 1 if sigmoid else logits.shape[1] - 1
    fits = (target >= 0) & (target <= most)
    if not sigmoid:
        fits = (fits & (target == target.long())) | (target == ignore_index)
    if not fits.all():
        _refuse_values(op, logits, sigmoid, int((~fits).sum()), target[~fits][-1].item())


def _refuse_values(op: str, logits: Tensor, sigmoid: bool, count: int, value: float) -> None:
    expected = "numbers from 0 to 1" if sigmoid else f"classes from 0 to {logits.shape[1] - 1}, or ignore_index"
    raise ValueError(f"{op}: target has the value {value:g}, {count} such in all, expected {expected}")


class _SegmentationLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weights: Tensor | None,
        op: str,
        sigmoid: bool,
        ignore_index: int,
        formula: Formula,
    ) -> Tensor:
        loss, slopes = _forward_op(logits, target, weights, op, sigmoid, ignore_index, *formula)
        ctx.save_for_backward(logits, target, slopes)
        ctx.call = (op, sigmoid, ignore_index)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward_op(grad, *ctx.saved_tensors, *ctx.call), *[None] * 6


def _forward(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    op: str,
    sigmoid: bool,
    ignore_index: int,
    *formula: Any,
) -> tuple[Tensor, Tensor]:
    launch = select.kernel(op, logits).segmentation_loss_forward
    loss, slopes, (count, value) = launch(logits, target, weights, sigmoid, ignore_index, Formula(*formula))
    if count:
        _refuse_values(op, logits, sigmoid, count, value)
    return loss, slopes


def _forward_fake(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    op: str,
    sigmoid: bool,
    ignore_index: int,
    *formula: Any,
) -> tuple[Tensor, Tensor]:
    return (
        logits.new_empty((), dtype=torch.promote_types(logits.dtype, torch.float32)),
        logits.new_empty((logits.shape[0], SLOPES, logits.shape[1]), dtype=torch.float64),
    )


def _backward(
    grad: Tensor, logits: Tensor, target: Tensor, slopes: Tensor, op: str, sigmoid: bool, ignore_index: int
) -> Tensor:
    launch = select.kernel(op, logits).segmentation_loss_backward
    return launch(grad, logits, target, slopes, sigmoid, ignore_index)


def _backward_fake(
    grad: Tensor, logits: Tensor, target: Tensor, slopes: Tensor, op: str, sigmoid: bool, ignore_index: int
) -> Tensor:
    return output_like(logits)


_forward_op = register(
    "segmentation_loss(Tensor logits, Tensor target, Tensor? class_weights, str op, bool sigmoid, int ignore_index, "
    "bool generalized, float overlap_weight, float ce_weight, float fp_weight, float fn_weight, float smooth, "
    "float gamma, bool batch, bool include_background, bool balanced) -> (Tensor loss, Tensor slopes)",
    _forward,
    _forward_fake,
)
_backward_op = register(
    "segmentation_loss_backward(Tensor grad, Tensor logits, Tensor target, Tensor slopes, str op, bool sigmoid, "
    "int ignore_index) -> Tensor",
    _backward,
    _backward_fake,
)
