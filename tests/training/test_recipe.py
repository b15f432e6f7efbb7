"""Recipes: what the papers say, the learning rate of each step, and values that are refused."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fastseg.models import list_models
from fastseg.training.recipe import Recipe


def rates(recipe: Recipe, steps: int) -> list[float]:
    optimizer = recipe.create_optimizer(torch.nn.Linear(1, 1))
    schedule = recipe.create_schedule(optimizer, steps)
    found = []
    for _ in range(recipe.epochs * steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_what_the_papers_say() -> None:
    paper = Recipe.of_paper("resunet_ce_aspp")
    assert (paper.learning_rate, paper.batch_size, paper.epochs) == (1e-3, 8, 300)
    assert Recipe.of_paper("unet").learning_rate == Recipe.of_paper("unet_cbam").learning_rate == 1e-4
    msfen = Recipe.of_paper("msfen")
    assert (msfen.batch_size, msfen.schedule, msfen.optimizer) == (16, "cosine", "adam")
    assert msfen.warmup_epochs > 0 and msfen.patience
    assert Recipe.of_paper("resunet").optimizer == "adam"
    assert Recipe.of_paper("unet", epochs=3).epochs == 3
    for name in list_models():
        assert Recipe.of_paper(name).network == name


def test_the_learning_rate_of_each_step() -> None:
    constant = rates(Recipe("unet", epochs=3, learning_rate=0.5), 2)
    assert constant == [0.5] * 6
    found = rates(Recipe("unet", epochs=5, learning_rate=2.0, schedule="cosine", warmup_epochs=2), 2)
    cosine = [1 + math.cos(math.pi * step / 6) for step in range(6)]
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, *cosine])
    assert rates(Recipe("unet", epochs=1, warmup_epochs=1), 2) == pytest.approx([5e-4, 1e-3])


def test_a_recipe_out_of_json_is_the_same() -> None:
    recipe = Recipe("unet", {"widths": (4, 8)}, clip_norm=1.0)
    told = json.loads(json.dumps(recipe.as_dict()))
    assert recipe.difference(told) is None
    assert Recipe("unet", {"widths": (4, 8)}, clip_norm=1.0, epochs=7, patience=2).difference(told) is None
    assert "arguments is {'widths': (4, 9)}" in str(Recipe("unet", {"widths": (4, 9)}, clip_norm=1.0).difference(told))
    assert "seed is 1, but 0" in str(Recipe("unet", {"widths": (4, 8)}, clip_norm=1.0, seed=1).difference(told))


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_optimizers_leave_frozen_parameters_out(kind: str) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    network[0].requires_grad_(False)
    optimizer = Recipe("unet", optimizer=kind, weight_decay=0.1).create_optimizer(network)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in network[1].parameters()]
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert type(optimizer).__name__.lower() == kind


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("optimizer", "lion", "expected one of 'adam', 'adamw', 'sgd'"),
        ("schedule", "step", "expected one of 'constant', 'cosine'"),
        ("precision", "16", "expected one of '32-true', 'bf16-mixed'"),
        ("epochs", 0, "expected a number >= 1"),
        ("batch_size", 0, "expected a number >= 1"),
        ("accumulation", -1, "expected a number >= 1"),
        ("warmup_epochs", -1, "expected a number >= 0"),
        ("weight_decay", math.nan, "expected a number >= 0"),
        ("learning_rate", 0.0, "expected a finite number above 0"),
        ("clip_norm", math.inf, "expected a finite number above 0"),
        ("patience", 0, "expected a finite number above 0"),
    ],
)
def test_values_that_are_refused(argument: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is .*{expected}"):
        Recipe("unet", **{argument: value})
