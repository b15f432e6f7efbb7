"""Dice plus cross-entropy as people run it today."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import channels_last, compiled, same, with_autotune
from fastseg.ops import dice_cross_entropy

SMOOTH = 1e-5


def eager(logits: Tensor, target: Tensor) -> Tensor:
    """The lean form, which nnU-Net trains with: a one-hot truth of bool, sums over the voxels of each image."""
    logits, axes = logits.float(), tuple(range(2, logits.ndim))  # as autocast has it
    p = torch.softmax(logits, 1)
    with torch.no_grad():
        truth = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device).scatter_(1, target.long(), 1)
    shared, predicted, voxels = (p * truth).sum(axes), p.sum(axes), truth.sum(axes)
    dice = (2 * shared + SMOOTH) / (voxels + predicted + SMOOTH)
    return 1 - dice.mean() + F.cross_entropy(logits, target[:, 0].long())


def fused(logits: Tensor, target: Tensor) -> Tensor:
    return dice_cross_entropy(logits, target, smooth=SMOOTH)


@cache
def monai() -> Callable[[Tensor, Tensor], Tensor]:
    from monai.losses import DiceCELoss

    loss = DiceCELoss(softmax=True, to_onehot_y=True)
    return lambda logits, target: loss(logits.float(), target)


#: name -> (how the function is made, how the logits are laid out)
LOSS_PEERS: dict[str, tuple[Callable[[], Callable[[Tensor, Tensor], Tensor]], Callable[[Tensor], Tensor]]] = {
    "fastseg": (lambda: fused, same),
    "fastseg channels-last": (lambda: fused, channels_last),
    "eager": (lambda: eager, same),
    "eager channels-last": (lambda: eager, channels_last),
    "MONAI": (monai, same),
    "torch.compile": (lambda: compiled(eager), same),
    "torch.compile channels-last": (lambda: compiled(eager), channels_last),
    **with_autotune(eager, same),
}
