"""The losses of :mod:`fastseg.ops` as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastseg.ops.loss import dice_cross_entropy, focal_tversky, generalized_dice, tversky
from fastseg.ops.loss_arguments import ClassWeights, Output, check_options


class _SegmentationLoss(nn.Module):
    """A function of fastseg.ops.loss with its options. The weights of classes go with the module to its device."""

    def __init__(self, function: Callable[..., Tensor], class_weights: ClassWeights, **options: Any) -> None:
        super().__init__()
        check_options(type(self).__name__, class_weights=class_weights, **options)
        self._function, self.options = function, options
        self.class_weights: Tensor | str | None
        if class_weights is None or isinstance(class_weights, str):
            self.class_weights = class_weights
        else:  # no part of the state_dict: losses that this one takes the place of have none
            weights = torch.as_tensor(class_weights, dtype=torch.float64).detach().clone()
            self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self._function(logits, target, class_weights=self.class_weights, **self.options)

    def extra_repr(self) -> str:
        weights: Any = self.class_weights
        if isinstance(weights, Tensor) and not weights.is_meta:
            weights = weights.tolist()
        return ", ".join(f"{name}={value!r}" for name, value in {**self.options, "class_weights": weights}.items())


class DiceCrossEntropyLoss(_SegmentationLoss):
    """:func:`fastseg.ops.dice_cross_entropy`, whose arguments these are.

    ``forward(logits, target)``: (N, K, *spatial), and a map of classes or K regions.
    """

    def __init__(
        self,
        *,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        output: Output = "softmax",
        include_background: bool = True,
        batch: bool = False,
        smooth: float = 1e-5,
        class_weights: ClassWeights = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(
            dice_cross_entropy,
            class_weights,
            dice_weight=dice_weight,
            ce_weight=ce_weight,
            output=output,
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ignore_index=ignore_index,
        )


class TverskyLoss(_SegmentationLoss):
    """:func:`fastseg.ops.tversky`, whose arguments these are.

    ``forward(logits, target)``: (N, K, *spatial), and a map of classes or K regions.
    """

    def __init__(
        self,
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
    ) -> None:
        super().__init__(
            tversky,
            class_weights,
            fp_weight=fp_weight,
            fn_weight=fn_weight,
            output=output,
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ce_weight=ce_weight,
            ignore_index=ignore_index,
        )


class FocalTverskyLoss(_SegmentationLoss):
    """:func:`fastseg.ops.focal_tversky`, whose arguments these are.

    ``forward(logits, target)``: (N, K, *spatial), and a map of classes or K regions.
    """

    def __init__(
        self,
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
    ) -> None:
        super().__init__(
            focal_tversky,
            class_weights,
            gamma=gamma,
            fp_weight=fp_weight,
            fn_weight=fn_weight,
            output=output,
            include_background=include_background,
            batch=batch,
            smooth=smooth,
            ce_weight=ce_weight,
            ignore_index=ignore_index,
        )


class GeneralizedDiceLoss(_SegmentationLoss):
    """:func:`fastseg.ops.generalized_dice`, whose arguments these are.

    ``forward(logits, target)``: (N, K, *spatial), and a map of classes or K regions.
    """

    def __init__(
        self,
        *,
        output: Output = "softmax",
        include_background: bool = True,
        batch: bool = False,
        ce_weight: float = 0.0,
        class_weights: ClassWeights = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(
            generalized_dice,
            class_weights,
            output=output,
            include_background=include_background,
            batch=batch,
            ce_weight=ce_weight,
            ignore_index=ignore_index,
        )
