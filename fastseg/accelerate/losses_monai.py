"""MONAI's losses over fused ops. Imported when a loss of MONAI is met; no state of their own.

Options are looked at in every call, for they are attributes that anybody may set; what has no fused form, a single
class or a target of another shape among it, runs MONAI's own, and so do devices for which there is no kernel.
"""

from __future__ import annotations

from typing import Any

from monai.losses.dice import DiceCELoss, DiceLoss
from monai.losses.tversky import TverskyLoss
from torch import Tensor

from fastseg import ops
from fastseg.accelerate.losses import dice_cross_entropy_refusal, fits, overlap_refusal


def _fits(op: str, loss: Any, input: Tensor, target: Tensor) -> bool:
    return fits(op, input, target, input.shape[1] if loss.sigmoid and input.ndim > 1 else 1)


def _options(loss: Any) -> dict[str, Any]:
    return {
        "output": "sigmoid" if loss.sigmoid else "softmax",
        "include_background": loss.include_background,
        "batch": loss.batch,
    }


class FusedDiceLoss(DiceLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if overlap_refusal(self) is not None or not _fits("dice_cross_entropy", self, input, target):
            return super().forward(input, target)
        return ops.dice_cross_entropy(input, target, ce_weight=0.0, smooth=float(self.smooth_nr), **_options(self))


class FusedDiceCELoss(DiceCELoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if dice_cross_entropy_refusal(self) is not None or not _fits("dice_cross_entropy", self.dice, input, target):
            return super().forward(input, target)
        return ops.dice_cross_entropy(
            input,
            target,
            dice_weight=self.lambda_dice,
            ce_weight=self.lambda_ce,
            smooth=float(self.dice.smooth_nr),
            **_options(self.dice),
        )


class FusedTverskyLoss(TverskyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if overlap_refusal(self) is not None or not _fits("tversky", self, input, target):
            return super().forward(input, target)
        return ops.tversky(
            input,
            target,
            fp_weight=self.alpha,
            fn_weight=self.beta,
            smooth=float(self.smooth_nr),
            **_options(self),
        )
