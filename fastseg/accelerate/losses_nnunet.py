"""nnU-Net's losses over fused ops. Imported when a loss of nnU-Net is met; no state of their own.

Its Dice counts from -1 (perfect) to 0, that of :mod:`fastseg.ops` from 0 to 1: the gradients are the same. Options are
looked at in every call, as in ``losses_monai.py``.
"""

from __future__ import annotations

from typing import Any

from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from torch import Tensor

from fastseg import ops
from fastseg.accelerate.losses import fits, nnunet_classes_refusal, nnunet_regions_refusal

_OP = "dice_cross_entropy"


def _fused(loss: Any, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    value = ops.dice_cross_entropy(
        logits,
        target,
        dice_weight=loss.weight_dice,
        ce_weight=loss.weight_ce,
        include_background=loss.dc.do_bg,
        batch=loss.dc.batch_dice,
        smooth=loss.dc.smooth,
        **options,
    )
    return value - loss.weight_dice


class FusedDiceCELoss(DC_and_CE_loss):
    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        if nnunet_classes_refusal(self) is not None or not fits(_OP, net_output, target, 1):
            stock: Tensor = super().forward(net_output, target)
            return stock
        return _fused(self, net_output, target, ignore_index=int(self.ce.ignore_index))


class FusedDiceBCELoss(DC_and_BCE_loss):
    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        if nnunet_regions_refusal(self) is not None or not fits(_OP, net_output, target, net_output.shape[1]):
            stock: Tensor = super().forward(net_output, target)
            return stock
        return _fused(self, net_output, target, output="sigmoid")
