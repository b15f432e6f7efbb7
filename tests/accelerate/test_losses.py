"""MONAI's losses, alone and in a trainer's module."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("monai")

from monai.data import MetaTensor
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss, TverskyLoss

from fastseg.accelerate import accelerate, losses_monai, report, restore
from tests.accelerate.losses import check, check_where_no_kernel_runs, watched

CLASSES: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
FUSED = {
    "dice": (DiceLoss, CLASSES),
    "dice of regions": (DiceLoss, {"sigmoid": True, "batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}),
    "dice without background": (DiceLoss, {**CLASSES, "include_background": False}),
    "dice and cross-entropy": (DiceCELoss, {**CLASSES, "lambda_dice": 0.5, "lambda_ce": 2.0}),
    "nnU-Net's": (DiceCELoss, {**CLASSES, "include_background": False, "batch": True}),
    "tversky": (TverskyLoss, {**CLASSES, "alpha": 0.3, "beta": 0.7}),
    "tversky of regions": (TverskyLoss, {"sigmoid": True, "include_background": False}),
}
LEFT = {
    "probabilities": (DiceLoss, {}, "neither sigmoid=True nor"),
    "one-hot truth": (DiceLoss, {"softmax": True}, "neither sigmoid=True nor"),
    "labels of regions": (DiceLoss, {"sigmoid": True, "to_onehot_y": True}, "sigmoid=True with"),
    "sum": (DiceLoss, {**CLASSES, "reduction": "sum"}, "reduction is 'sum'"),
    "activation": (TverskyLoss, {"other_act": torch.tanh}, "neither"),
    "squares": (DiceLoss, {**CLASSES, "squared_pred": True}, "squared_pred is True"),
    "jaccard": (DiceCELoss, {**CLASSES, "jaccard": True}, "dice: jaccard is True"),
    "soft labels": (TverskyLoss, {"sigmoid": True, "soft_label": True}, "soft_label is True"),
    "ignored": (DiceLoss, {**CLASSES, "ignore_index": 2}, "ignore_index is 2"),
    "smooth": (DiceLoss, {**CLASSES, "smooth_nr": 0.0}, "smooth_nr is 0.0 and smooth_dr 1e-05"),
    "no smooth": (DiceLoss, {**CLASSES, "smooth_nr": 0.0, "smooth_dr": 0.0}, "one number > 0"),
    "weights": (DiceCELoss, {**CLASSES, "weight": torch.ones(3)}, "dice: class_weight is"),
    "label smoothing": (DiceCELoss, {**CLASSES, "label_smoothing": 0.1}, "cross_entropy has"),
    "cross-entropy of regions": (DiceCELoss, {"sigmoid": True}, "its cross-entropy is that of softmax"),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return watched(monkeypatch, losses_monai)


def drawn(loss: Any, classes: int = 3) -> tuple[Tensor, Tensor]:
    sigmoid = getattr(loss, "dice", loss).sigmoid
    target = torch.randint(2 if sigmoid else classes, (2, classes if sigmoid else 1, 6, 7, 8)).float()
    return torch.randn(2, classes, 6, 7, 8), target


@pytest.mark.parametrize("case", FUSED)
def test_fused(case: str, calls: list[str]) -> None:
    cls, options = FUSED[case]
    stock = cls(**options)
    fused = accelerate(copy.deepcopy(stock))
    check(fused, stock, *drawn(stock))
    assert len(calls) == 1 and isinstance(fused, cls)
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        check(other, stock, *drawn(stock))
    assert len(calls) == 3
    restored = restore(fused)
    assert type(restored) is cls
    check(restored, stock, *drawn(stock))
    assert len(calls) == 3


@pytest.mark.parametrize("case", LEFT)
def test_left(case: str) -> None:
    cls, options, why = LEFT[case]
    loss = accelerate(cls(**options))
    assert type(loss) is cls
    assert any(why in entry.note for entry in report(loss).left)


def test_in_a_module_of_a_trainer(calls: list[str]) -> None:
    class Trainer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.InstanceNorm3d(3))
            self.loss = DeepSupervisionLoss(DiceCELoss(**CLASSES))

        def forward(self, x: Tensor, target: Tensor) -> Any:
            y = self.network(x)
            return self.loss([y, y[..., ::2, ::2, ::2]], target)

    stock = Trainer()
    fused = accelerate(copy.deepcopy(stock))
    x, target = torch.randn(2, 1, 8, 8, 8), torch.randint(3, (2, 1, 8, 8, 8)).float()
    torch.testing.assert_close(fused(x, target), stock(x, target))
    assert calls == ["dice_cross_entropy"] * 2
    assert {entry.cls for entry in report(fused).swapped} >= {"DiceCELoss", "InstanceNorm3d"}


def test_what_a_call_decides(calls: list[str]) -> None:
    stock = DiceLoss(**CLASSES)
    fused = accelerate(copy.deepcopy(stock))
    with pytest.warns(UserWarning, match="single channel"):
        check(fused, stock, torch.rand(2, 1, 5, 6), torch.randint(2, (2, 1, 5, 6)).float())
    stock.jaccard = fused.jaccard = True
    check(fused, stock, *drawn(stock))
    assert not calls
    stock.jaccard = fused.jaccard = False
    fused.smooth_nr = fused.smooth_dr = stock.smooth_nr = stock.smooth_dr = 2.0
    check(fused, stock, *drawn(stock))
    assert calls == ["dice_cross_entropy"]


def test_meta_tensors() -> None:
    stock = DiceCELoss(**CLASSES)
    logits, target = drawn(stock)
    check(accelerate(copy.deepcopy(stock)), stock, MetaTensor(logits), MetaTensor(target))


def test_hooks_and_replaced_forwards() -> None:
    loss = DiceCELoss(**CLASSES)
    loss.dice.register_forward_hook(lambda *args: None)
    assert type(accelerate(loss)) is DiceCELoss
    assert any("hooks" in entry.note for entry in report(loss).left)
    loss = DiceLoss(**CLASSES)
    loss.forward = lambda input, target: input.sum()
    assert type(accelerate(loss)) is DiceLoss


def test_where_no_kernel_runs(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stock = DiceCELoss(**CLASSES)
    check_where_no_kernel_runs(monkeypatch, "dice_cross_entropy", stock, calls, *drawn(stock))
