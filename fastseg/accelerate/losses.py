"""Rules for losses of MONAI and nnU-Net: in a trainer's module they are swapped with its network, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from fastseg.accelerate.fusion import has_hooks
from fastseg.accelerate.planning import Left, Rule, Step, Swap, Uses
from fastseg.accelerate.swap import full_name, stock_class
from fastseg.ops.loss_registered import runs_fused

_NNUNET = "nnunetv2.training.loss"
_NNUNET_DICE = (f"{_NNUNET}.dice.MemoryEfficientSoftDiceLoss", f"{_NNUNET}.dice.SoftDiceLoss")


def overlap_refusal(loss: Any) -> str | None:
    """Why a DiceLoss or TverskyLoss has no fused form as it is set now."""
    if loss.sigmoid == (loss.softmax and loss.to_onehot_y):
        return "it has neither sigmoid=True nor softmax=True with to_onehot_y=True"
    if loss.sigmoid and (loss.softmax or loss.to_onehot_y):
        return "sigmoid=True with softmax or to_onehot_y has no fused form"
    for name, expected in (
        ("reduction", "mean"),
        ("other_act", None),
        ("squared_pred", False),
        ("jaccard", False),
        ("soft_label", False),
        ("class_weight", None),
        ("ignore_index", None),
    ):
        value = getattr(loss, name, expected)
        if value != expected:
            return f"{name} is {value!r}, which has no fused form"
    if loss.smooth_nr != loss.smooth_dr or not loss.smooth_nr > 0:
        return f"smooth_nr is {loss.smooth_nr} and smooth_dr {loss.smooth_dr}, the fused form has one number > 0"
    return None


def dice_cross_entropy_refusal(loss: Any) -> str | None:
    """The same of a DiceCELoss."""
    if not loss.dice.softmax:
        return "its cross-entropy is that of softmax, and its dice is not"
    if (why := overlap_refusal(loss.dice)) is not None:
        return f"dice: {why}"
    return _entropy_refusal("cross_entropy", loss.cross_entropy) or _parts_refusal(loss, "dice", "cross_entropy")


def nnunet_classes_refusal(loss: Any) -> str | None:
    """Why nnU-Net's DC_and_CE_loss has no fused form as it is set now."""
    if loss.ce.ignore_index != (-100 if loss.ignore_label is None else loss.ignore_label):
        return f"ce.ignore_index is {loss.ce.ignore_index} and ignore_label {loss.ignore_label}: Dice ignores less"
    return _nnunet_refusal(loss, f"{_NNUNET}.robust_ce_loss.RobustCrossEntropyLoss", "softmax_helper_dim1")


def nnunet_regions_refusal(loss: Any) -> str | None:
    """The same of DC_and_BCE_loss."""
    if loss.use_ignore_label:
        return "it has an ignore label, which regions have no fused form with"
    return _nnunet_refusal(loss, "torch.nn.modules.loss.BCEWithLogitsLoss", "sigmoid")


def _nnunet_refusal(loss: Any, entropy: str, activation: str) -> str | None:
    for name, classes in (("dc", _NNUNET_DICE), ("ce", (entropy,))):
        cls = full_name(type(loss.get_submodule(name)))
        if cls not in classes:
            return f"{name} is a {cls}, which has no fused form"
    dice = loss.dc
    if getattr(dice.apply_nonlin, "__name__", None) != activation:
        return f"dc.apply_nonlin is not {activation}"
    if getattr(dice, "clip_tp", None) is not None:
        return f"dc.clip_tp is {dice.clip_tp}, which has no fused form"
    if dice.ddp and dice.batch_dice:
        return "dc adds up the batches of all processes"
    if not dice.smooth > 0:
        return f"dc.smooth is {dice.smooth}, the fused form has a number > 0"
    if not min(loss.weight_ce, loss.weight_dice) >= 0:
        return f"weight_ce is {loss.weight_ce} and weight_dice {loss.weight_dice}, the fused form has numbers >= 0"
    return _entropy_refusal("ce", loss.ce) or _parts_refusal(loss, "dc", "ce")


def _entropy_refusal(name: str, entropy: Any) -> str | None:
    weighted = entropy.weight is not None or getattr(entropy, "pos_weight", None) is not None
    if weighted or getattr(entropy, "label_smoothing", 0.0) > 0 or entropy.reduction != "mean":
        return f"{name} has weights, label smoothing or another reduction, which has no fused form"
    return None


def _parts_refusal(loss: nn.Module, *names: str) -> str | None:
    for name in names:
        layer = loss.get_submodule(name)
        if has_hooks(layer) or "forward" in vars(layer):
            return f"{name} has hooks or a forward of its own, which would not run"
    return None


def fits(op: str, logits: Tensor, target: Tensor, channels: int) -> bool:
    """Whether ``op`` has a kernel for logits, of several classes or regions, and takes a target of ``channels``."""
    if logits.ndim < 3 or logits.shape[1] == 1 or not logits.numel() or not logits.is_floating_point():
        return False
    if target.shape != (logits.shape[0], channels, *logits.shape[2:]):
        return False
    return target.device == logits.device and not target.requires_grad and runs_fused(op, logits)


class LossRule(Rule):
    """A loss whose options :mod:`fastseg.ops` has."""

    def __init__(self, stock: str, fused: str, refusal: Callable[[Any], str | None]) -> None:
        self._stock, self._fused, self._refusal = stock, fused, refusal

    def matches(self, module: nn.Module) -> bool:
        return full_name(stock_class(module)) == self._stock

    def plan(self, path: str, module: nn.Module, uses: Uses) -> Iterator[Step]:
        replaced = "forward" in vars(module)
        why = "its forward was replaced on the instance" if replaced else self._refusal(module)
        if why is not None:
            yield Left(path, module, why)
        else:
            yield Swap(path, module, f"fastseg.accelerate.{self._fused}", self._fused.partition(":")[2])


RULES: tuple[Rule, ...] = (
    LossRule("monai.losses.dice.DiceCELoss", "losses_monai:FusedDiceCELoss", dice_cross_entropy_refusal),
    LossRule("monai.losses.dice.DiceLoss", "losses_monai:FusedDiceLoss", overlap_refusal),
    LossRule("monai.losses.tversky.TverskyLoss", "losses_monai:FusedTverskyLoss", overlap_refusal),
    LossRule(f"{_NNUNET}.compound_losses.DC_and_CE_loss", "losses_nnunet:FusedDiceCELoss", nnunet_classes_refusal),
    LossRule(f"{_NNUNET}.compound_losses.DC_and_BCE_loss", "losses_nnunet:FusedDiceBCELoss", nnunet_regions_refusal),
)
