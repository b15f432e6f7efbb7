"""nnU-Net's losses over fused ops. Imported when a loss of nnU-Net is met; no state of their own.

Its Dice counts from -1 (perfect) to 0, that of :mod:`fastseg.ops` from 0 to 1: the gradients are the same. Options are
looked at in every call, as in ``losses_monai.py``.
"""

from __future__ import annotations

from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from torch import Tensor

from fastseg import ops
from fastseg.accelerate.losses import fits, nnunet_classes_refusal, nnunet_regions_refusal

_OP = "dice_cross_entropy"


class FusedDiceCELoss(DC_and_CE_loss):
    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        if nnunet_classes_refusal(self) is not None or not fits(_OP, net_output, target, 1):
            stock: Tensor = super().forward(net_output, target)
            return stock
        loss = ops.dice_cross_entropy(
            net_output,
            target,
            dice_weight=self.weight_dice,
            ce_weight=self.weight_ce,
            include_background=self.dc.do_bg,
            batch=self.dc.batch_dice,
            smooth=self.dc.smooth,
            ignore_index=int(self.ce.ignore_index),
        )
        return loss - self.weight_dice


class FusedDiceBCELoss(DC_and_BCE_loss):
    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        if nnunet_regions_refusal(self) is not None or not fits(_OP, net_output, target, net_output.shape[1]):
            stock: Tensor = super().forward(net_output, target)
            return stock
        loss = ops.dice_cross_entropy(
            net_output,
            target,
            dice_weight=self.weight_dice,
            ce_weight=self.weight_ce,
            output="sigmoid",
            include_background=self.dc.do_bg,
            batch=self.dc.batch_dice,
            smooth=self.dc.smooth,
        )
        return loss - self.weight_dice
