"""What the tests of swapped losses share."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastseg
from fastseg.accelerate import accelerate
from fastseg.backends import select


def watched(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[str]:
    """The names of the ops that ``module`` runs, as they run."""
    names: list[str] = []
    ops = module.ops

    class Watched:
        def __getattr__(self, name: str) -> Any:
            names.append(name)
            return getattr(ops, name)

    monkeypatch.setattr(module, "ops", Watched())
    return names


def check(ours: nn.Module, stock: nn.Module, logits: Tensor, target: Tensor) -> None:
    """Equal values and gradients."""
    for a, b in zip(*(value_and_gradient(loss, logits, target) for loss in (ours, stock)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def value_and_gradient(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def check_where_no_kernel_runs(
    monkeypatch: pytest.MonkeyPatch, op: str, stock: nn.Module, calls: list[str], logits: Tensor, target: Tensor
) -> None:
    """As on a device for which there is none: the stock forward, unless a backend is forced."""
    fused = accelerate(copy.deepcopy(stock))
    candidates = tuple(candidate for candidate in select.CANDIDATES[op] if candidate.backend == "reference")
    monkeypatch.setitem(select.CANDIDATES, op, candidates)
    check(fused, stock, logits, target)
    assert not calls
    with fastseg.backend("reference"):
        check(fused, stock, logits, target)
    assert calls
