"""nnU-Net's losses, alone and under deep supervision."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("nnunetv2")

from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss

from fastseg.accelerate import accelerate, losses_nnunet, report, restore
from tests.accelerate.losses import check, check_where_no_kernel_runs, value_and_gradient, watched

DICE = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}


def classes(entropy: dict[str, Any] | None = None, *, dice: dict[str, Any] | None = None, **options: Any) -> nn.Module:
    options = {"dice_class": MemoryEfficientSoftDiceLoss, **options}
    loss: nn.Module = DC_and_CE_loss({**DICE, **(dice or {})}, entropy or {}, **options)
    return loss


def regions(entropy: dict[str, Any] | None = None, *, dice: dict[str, Any] | None = None, **options: Any) -> nn.Module:
    loss: nn.Module = DC_and_BCE_loss(entropy or {}, {**DICE, "do_bg": True, **(dice or {})}, **options)
    return loss


def compiled() -> nn.Module:
    loss = classes()
    loss.dc = torch.compile(loss.dc)  # as nnU-Net does on GPUs
    return loss


def hooked() -> nn.Module:
    loss = classes()
    loss.ce.register_forward_hook(lambda *args: None)
    return loss


FUSED: dict[str, Callable[[], nn.Module]] = {
    "classes": classes,
    "classes of the batch": lambda: classes(dice={"batch_dice": True, "ddp": False}),
    "classes in processes": lambda: classes(dice={"ddp": True}),
    "classes with background, weights": lambda: classes(dice={"do_bg": True}, weight_ce=0.3, weight_dice=2.0),
    "an ignored class": lambda: classes(ignore_label=2),
    "an ignored class of NumPy": lambda: classes(ignore_label=np.int64(2)),
    "the longer Dice": lambda: classes(dice_class=SoftDiceLoss),
    "Dice alone": lambda: classes(weight_ce=0),
    "regions": regions,
    "regions of the batch": lambda: regions(dice={"batch_dice": True, "smooth": 1.0}),
}
LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weights": (lambda: classes({"weight": torch.ones(3)}), "ce has weights"),
    "label smoothing": (lambda: classes({"label_smoothing": 0.1}), "ce has weights, label smoothing"),
    "no smooth": (lambda: classes(dice={"smooth": 0.0}), "dc.smooth is 0.0"),
    "the batches of all processes": (lambda: classes(dice={"batch_dice": True, "ddp": True}), "all processes"),
    "a least overlap": (lambda: classes(dice={"clip_tp": 1.0}, dice_class=SoftDiceLoss), "dc.clip_tp is 1.0"),
    "compiled": (compiled, "dc is a torch._dynamo.eval_frame.OptimizedModule"),
    "a class that Dice does not ignore": (
        lambda: classes({"ignore_index": 2}),
        "ce.ignore_index is 2 and ignore_label",
    ),
    "hooks": (hooked, "ce has hooks"),
    "negative": (lambda: classes(weight_ce=-1), "weight_ce is -1"),
    "regions with an ignore label": (lambda: regions(use_ignore_label=True), "ignore label"),
    "weights of regions": (lambda: regions({"pos_weight": torch.ones(3, 1, 1, 1)}), "ce has weights"),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return watched(monkeypatch, losses_nnunet)


def drawn(loss: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(loss, DC_and_BCE_loss):
        return torch.randn(2, 3, 6, 7, 8), torch.rand(2, 3, 6, 7, 8) < 0.3
    # Classes as nnU-Net's loader gives them; class 2 is rare.
    return torch.randn(2, 3, 6, 7, 8), (torch.rand(2, 1, 6, 7, 8) * 2.1).to(torch.int16)


@pytest.mark.parametrize("case", FUSED)
def test_fused(case: str, calls: list[str]) -> None:
    stock = FUSED[case]()
    fused = accelerate(copy.deepcopy(stock))
    check(fused, stock, *drawn(stock))
    assert len(calls) == 1 and isinstance(fused, type(stock))
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        check(other, stock, *drawn(stock))
    assert len(calls) == 3
    restored = restore(fused)
    assert type(restored) is type(stock)
    check(restored, stock, *drawn(stock))
    assert len(calls) == 3


@pytest.mark.parametrize("case", LEFT)
def test_left(case: str) -> None:
    make, why = LEFT[case]
    loss = make()
    cls = type(loss)
    assert type(accelerate(loss)) is cls
    assert any(why in entry.note for entry in report(loss).left)


def test_deep_supervision(calls: list[str]) -> None:
    stock = DeepSupervisionWrapper(classes(), (0.6, 0.4, 0.0))
    fused = accelerate(copy.deepcopy(stock))
    outputs = [torch.randn(2, 3, n, n, n) for n in (8, 4, 2)]
    targets = [torch.randint(3, (2, 1, n, n, n)).float() for n in (8, 4, 2)]
    torch.testing.assert_close(fused(outputs, targets), stock(outputs, targets))
    assert calls == ["dice_cross_entropy"] * 2


def test_nothing_counts(calls: list[str]) -> None:
    stock = classes(ignore_label=2)
    fused = accelerate(copy.deepcopy(stock))
    check(fused, stock, torch.randn(2, 3, 5, 6), torch.full((2, 1, 5, 6), 2))
    assert calls


def test_what_a_call_decides(calls: list[str]) -> None:
    stock = classes(dice={"do_bg": True})
    fused = accelerate(copy.deepcopy(stock))
    check(fused, stock, torch.randn(2, 1, 5, 6), torch.zeros(2, 1, 5, 6))  # one class
    stock.ce.label_smoothing = fused.ce.label_smoothing = 0.2
    check(fused, stock, *drawn(stock))
    assert not calls


def test_it_counts_from_minus_one() -> None:
    truth = torch.randint(2, (1, 1, 9, 9))
    perfect = 100.0 * torch.cat((1 - truth, truth), 1)
    loss, _ = value_and_gradient(accelerate(classes()), perfect, truth)
    assert loss.item() == pytest.approx(-1, abs=1e-5)


def test_where_no_kernel_runs(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stock = classes()
    check_where_no_kernel_runs(monkeypatch, "dice_cross_entropy", stock, calls, *drawn(stock))
