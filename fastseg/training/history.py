"""What a run has come to, epoch by epoch, and the table of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastseg.io.files import saving
from fastseg.training.errors import TrainingError


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data and the validation after it.

    Attributes:
        number: from 1.
        train_loss: mean over the steps.
        validation_loss: mean over the images.
        dice: mean of ``dice_of``.
        dice_of: of each region or class, of all validation images together; NaN where neither truth nor prediction
            has it anywhere.
        learning_rate: at the last step.
        seconds: of training and validation.
    """

    number: int
    train_loss: float
    validation_loss: float
    dice: float
    dice_of: tuple[float, ...]
    learning_rate: float
    seconds: float


@dataclass
class History:
    """All epochs of a run.

    Attributes:
        names: of the regions or classes, in the order of ``Epoch.dice_of``.
        epochs: one after the other.
        stopped: why the run ended before its last epoch; empty where it did not.
    """

    names: tuple[str, ...]
    epochs: list[Epoch] = field(default_factory=list)
    stopped: str = ""

    @property
    def best(self) -> Epoch | None:
        """The first epoch of the highest Dice; None before the first epoch."""
        return max(self.epochs, key=lambda epoch: epoch.dice, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, which checkpoints hold."""
        epochs = [{**asdict(epoch), "dice_of": list(epoch.dice_of)} for epoch in self.epochs]
        return {"names": list(self.names), "epochs": epochs}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> History:
        """The inverse of :meth:`as_dict`."""
        epochs = [Epoch(**{**epoch, "dice_of": tuple(epoch["dice_of"])}) for epoch in content["epochs"]]
        return cls(tuple(content["names"]), epochs)

    def save(self, path: Path) -> None:
        """Write a CSV, one line an epoch; it appears whole or not at all."""
        with saving(path, TrainingError) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(self._columns())
            for epoch in self.epochs:
                table.writerow(_cells(epoch))

    def _columns(self) -> Sequence[str]:
        dice_of = [f"dice {name}" for name in self.names]
        return ["epoch", "train loss", "validation loss", "dice", *dice_of, "learning rate", "seconds"]


def _cells(epoch: Epoch) -> list[object]:
    losses = [epoch.train_loss, epoch.validation_loss]
    return [epoch.number, *losses, epoch.dice, *epoch.dice_of, epoch.learning_rate, round(epoch.seconds, 3)]
