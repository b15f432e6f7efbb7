"""The picture of a run: losses and Dice over the epochs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastseg.io.files import saving
from fastseg.training.errors import TrainingError
from fastseg.training.history import History


def draw_curve(history: History, title: str = "") -> Figure:
    """Two panels: training and validation loss, and the validation Dice of each region or class with their mean."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, dice = figure.subplots(1, 2)
    epochs = history.epochs
    numbers = [epoch.number for epoch in epochs]
    losses.plot(numbers, [epoch.train_loss for epoch in epochs], ".-", label="training")
    losses.plot(numbers, [epoch.validation_loss for epoch in epochs], ".-", label="validation")
    losses.set(xlabel="epoch", ylabel="loss")
    if len(history.names) > 1:
        for index, name in enumerate(history.names):
            dice.plot(numbers, [epoch.dice_of[index] for epoch in epochs], ".-", alpha=0.6, label=name)
    dice.plot(numbers, [epoch.dice for epoch in epochs], ".-", color="black", label="mean")
    best = history.best
    if best is not None:
        dice.plot(best.number, best.dice, "o", mfc="none", ms=11, color="black", label=f"best {best.dice:.3f}")
    dice.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    for panel in (losses, dice):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        panel.legend()
    if title:
        figure.suptitle(title)
    return figure


def save_curve(history: History, path: Path, title: str = "") -> None:
    """Write :func:`draw_curve` as PNG; it appears whole or not at all."""
    with saving(path, TrainingError) as temporary:
        draw_curve(history, title).savefig(temporary, dpi=110)
