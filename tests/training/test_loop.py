"""The training loop: it learns, resumes bit for bit, keeps its files whole, and says what it refuses."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning_fabric")
pytest.importorskip("monai")
pytest.importorskip("safetensors")

from fastseg.models import weights
from fastseg.training import loop
from fastseg.training.checkpoint import BEST, CURVE, LAST, TABLE
from fastseg.training.errors import TrainingError
from fastseg.training.history import History
from fastseg.training.loop import Progress, fit
from fastseg.training.recipe import Recipe
from tests.training.squares import Squares, small_recipe

TRAIN, HELD_OUT = Squares(14, 0), Squares(6, 1)


@pytest.fixture(autouse=True)
def without_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the epochs do here."""
    if request.function is not test_it_learns_and_writes_its_files:
        monkeypatch.setattr(loop, "save_curve", lambda history, path, title: None)


def state(folder: Path) -> dict[str, object]:
    return torch.load(folder / LAST, weights_only=True)


def numbers(history: History) -> list[tuple[object, ...]]:
    """Everything but the seconds."""
    return [(e.number, e.train_loss, e.validation_loss, e.dice, e.dice_of, e.learning_rate) for e in history.epochs]


def interrupted_after(epoch: int) -> object:
    def stop(progress: Progress) -> None:
        if progress.epoch == epoch + 1 and progress.share > 0:
            raise KeyboardInterrupt

    return stop


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_it_learns_and_writes_its_files(tmp_path: Path) -> None:
    seen: list[Progress] = []
    facts = {"normalisation": "none"}
    folder = tmp_path / "run"
    recipe = small_recipe(epochs=6, learning_rate=0.03, loss="cross_entropy")
    history = fit(recipe, TRAIN, HELD_OUT, folder=folder, on_progress=seen.append, names=("square",), facts=facts)
    assert sorted(path.name for path in folder.iterdir()) == sorted((BEST, CURVE, LAST, TABLE))
    assert history.epochs[-1].train_loss < 0.8 * history.epochs[0].train_loss
    best = history.best
    assert best is not None and best.dice > 0.7

    network, said = weights.load_network(folder / BEST)
    assert network.name == "resunet" and network.config["widths"] == [4, 8, 16]
    assert said == {**facts, "dice": {"square": best.dice}, "epoch": best.number}
    images, truth = (torch.stack(part) for part in zip(*(HELD_OUT[i] for i in range(6)), strict=True))
    with torch.no_grad():
        found = network(images) > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice.item() == pytest.approx(best.dice, abs=1e-6)  # of all images together, not the mean of theirs

    with (folder / TABLE).open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["epoch", "train loss", "validation loss", "dice", "dice square", "learning rate", "seconds"]
    assert [float(row[3]) for row in rows[1:]] == [epoch.dice for epoch in history.epochs]
    assert [p.done.number for p in seen if p.done] == [1, 2, 3, 4, 5, 6]
    assert [p.share for p in seen if p.epoch == 1] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize(
    "changes", [{}, {"schedule": "cosine", "warmup_epochs": 1, "accumulation": 2, "clip_norm": 1.0}]
)
def test_resumed_is_the_same_as_at_once(tmp_path: Path, changes: dict[str, object]) -> None:
    recipe = small_recipe(**changes)
    at_once = fit(recipe, TRAIN, HELD_OUT, folder=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, TRAIN, HELD_OUT, folder=tmp_path / "b", on_progress=interrupted_after(2))
    assert len(state(tmp_path / "b")["history"]["epochs"]) == 2
    torch.manual_seed(99)  # whatever happened in between
    resumed = fit(recipe, TRAIN, HELD_OUT, folder=tmp_path / "b", resume=True)
    assert numbers(resumed) == numbers(at_once)
    a, b = state(tmp_path / "a"), state(tmp_path / "b")
    for key in ("model", "optimizer", "schedule"):
        assert same(a[key], b[key]), key
    best = [weights.load_network(tmp_path / name / BEST)[0].state_dict() for name in "ab"]
    assert same(*best)


def test_interrupted_in_the_first_epoch(tmp_path: Path) -> None:
    recipe = small_recipe(epochs=1)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, TRAIN, HELD_OUT, folder=tmp_path / "a", on_progress=interrupted_after(0))
    resumed = fit(recipe, TRAIN, HELD_OUT, folder=tmp_path / "a", resume=True)
    assert numbers(resumed) == numbers(fit(recipe, TRAIN, HELD_OUT, folder=tmp_path / "b"))


def test_more_epochs_than_planned(tmp_path: Path) -> None:
    fit(small_recipe(epochs=1), TRAIN, HELD_OUT, folder=tmp_path)
    history = fit(small_recipe(epochs=2), TRAIN, HELD_OUT, folder=tmp_path, resume=True)
    assert len(history.epochs) == 2 and state(tmp_path)["recipe"]["epochs"] == 2


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"holds no last\.ckpt, so there is no run to resume"):
        fit(small_recipe(), TRAIN, HELD_OUT, folder=tmp_path, resume=True)
    fit(small_recipe(epochs=1), TRAIN, HELD_OUT, folder=tmp_path)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(TrainingError, match=r"holds last\.ckpt of another run: resume it, or choose another folder"):
        fit(small_recipe(epochs=1), TRAIN, HELD_OUT, folder=tmp_path)
    with pytest.raises(TrainingError, match=r"cannot be resumed: learning_rate is 0.5, but 0.02 in the run"):
        fit(small_recipe(learning_rate=0.5), TRAIN, HELD_OUT, folder=tmp_path, resume=True)
    assert (tmp_path / LAST).read_bytes() == before


class Broken:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_refused_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe(epochs=1)
    torch.save({"model": Broken()}, tmp_path / LAST)
    with pytest.raises(TrainingError, match=r"last\.ckpt: no checkpoint that torch.load takes"):
        fit(recipe, TRAIN, HELD_OUT, folder=tmp_path, resume=True)
    assert "code ran" not in capsys.readouterr().out
    torch.save({"model": {}}, tmp_path / LAST)
    with pytest.raises(TrainingError, match=r"last\.ckpt: no checkpoint of a training run"):
        fit(recipe, TRAIN, HELD_OUT, folder=tmp_path, resume=True)
    (tmp_path / LAST).write_bytes(b"")
    with pytest.raises(TrainingError, match="the file is empty"):
        fit(recipe, TRAIN, HELD_OUT, folder=tmp_path, resume=True)


class Spoiled(Squares):
    """Images become infinite from the second epoch on."""

    def set_epoch(self, number: int) -> None:
        self.number = number

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = super().__getitem__(index)
        return (image * math.inf if self.number > 1 else image), mask


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is nan in step 1 of 3 of epoch 2.*last\.ckpt is of epoch 1"):
        fit(small_recipe(), Spoiled(14, 0), HELD_OUT, folder=tmp_path)
    kept = state(tmp_path)
    assert len(kept["history"]["epochs"]) == 1
    assert all(value.isfinite().all() for value in kept["model"].values())


def test_gradients_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Steep(torch.nn.Module):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return (logits - logits.detach()).abs().sqrt().sum()  # 0, with an infinite slope

    monkeypatch.setattr(Recipe, "create_loss", lambda recipe, network: Steep())
    with pytest.raises(TrainingError, match=r"the norm of the gradients is (nan|inf) in step 1 of 3 of epoch 1"):
        fit(small_recipe(clip_norm=1.0), TRAIN, HELD_OUT, folder=tmp_path)


#: Without batch norm: an image's output does not depend on the others, and changes with the weights alone.
NO_NORM = {"network": "unet", "arguments": {"in_channels": 1, "out_channels": 2, "widths": (4, 8)}}


def classes(data: Squares, count: int) -> list[tuple[Tensor, Tensor]]:
    return [(image, mask[0].long()) for image, mask in (data[index] for index in range(count))]


def test_accumulated_gradients_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    recipe = small_recipe(**NO_NORM, epochs=1, optimizer="sgd")
    train, held_out = classes(TRAIN, 8), classes(HELD_OUT, 6)
    fit(recipe, train, held_out, folder=tmp_path / "a")
    fit(replace(recipe, batch_size=2, accumulation=2), train, held_out, folder=tmp_path / "b")
    a, b = (state(tmp_path / name)["model"] for name in "ab")
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, rtol=1e-5, atol=1e-6)


def test_early_stopping(tmp_path: Path) -> None:
    recipe = small_recipe(**NO_NORM, learning_rate=1e-12, epochs=9, patience=2)
    history = fit(recipe, classes(TRAIN, 8), classes(HELD_OUT, 6), folder=tmp_path)
    best = history.best
    assert best is not None and (best.number, len(history.epochs)) == (1, 3)
    assert history.stopped == "no better Dice in 2 epochs"
    again = fit(recipe, classes(TRAIN, 8), classes(HELD_OUT, 6), folder=tmp_path, resume=True)
    assert numbers(again) == numbers(history)


def test_bfloat16(tmp_path: Path) -> None:
    history = fit(small_recipe(precision="bf16-mixed", epochs=5), TRAIN, HELD_OUT, folder=tmp_path)
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss
    assert all(value.dtype != torch.bfloat16 for value in state(tmp_path)["model"].values())


def test_too_little_data(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="3 images to train on, expected at least 4: a batch of 4"):
        fit(small_recipe(), Squares(3, 0), HELD_OUT, folder=tmp_path)
    with pytest.raises(TrainingError, match="no image to validate on"):
        fit(small_recipe(), TRAIN, Squares(0, 0), folder=tmp_path)
    empty = [(image, torch.zeros_like(mask)) for image, mask in (HELD_OUT[index] for index in range(2))]
    with pytest.raises(TrainingError, match="no validation image has a foreground"):
        fit(small_recipe(), TRAIN, empty, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []  # refused before the first epoch


def test_names_of_more_channels_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 1 at most"):
        fit(small_recipe(), TRAIN, HELD_OUT, folder=tmp_path, names=("a", "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_with_an_unknown_loss(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'focal_tversky'"):
        fit(Recipe("resunet", {"in_channels": 1}, loss="no such loss"), TRAIN, HELD_OUT, folder=tmp_path)
