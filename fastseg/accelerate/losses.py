"""Rules for MONAI's losses of overlap: in a trainer's module they are swapped with its network, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from fastseg.accelerate.fusion import has_hooks
from fastseg.accelerate.planning import Left, Rule, Step, Swap, Uses
from fastseg.accelerate.swap import full_name, stock_class


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
    entropy = loss.cross_entropy
    if entropy.weight is not None or entropy.label_smoothing or entropy.reduction != "mean":
        return "cross_entropy has weights, label smoothing or another reduction, which has no fused form"
    for name in ("dice", "cross_entropy"):
        layer = loss.get_submodule(name)
        if has_hooks(layer) or "forward" in vars(layer):
            return f"{name} has hooks or a forward of its own, which would not run"
    return None


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
            yield Swap(path, module, f"fastseg.accelerate.losses_monai:{self._fused}", self._fused)


RULES: tuple[Rule, ...] = (
    LossRule("monai.losses.dice.DiceCELoss", "FusedDiceCELoss", dice_cross_entropy_refusal),
    LossRule("monai.losses.dice.DiceLoss", "FusedDiceLoss", overlap_refusal),
    LossRule("monai.losses.tversky.TverskyLoss", "FusedTverskyLoss", overlap_refusal),
)
