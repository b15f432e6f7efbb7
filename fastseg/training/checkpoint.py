"""The state of a run after an epoch: what :func:`fastseg.training.fit` needs to go on as if it had not stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fastseg.io.files import first_bytes, first_line, saving
from fastseg.training.errors import TrainingError
from fastseg.training.history import History
from fastseg.training.recipe import Recipe

#: Files of a run, in its folder.
LAST, BEST, TABLE, CURVE = "last.ckpt", "best.safetensors", "history.csv", "curve.png"
FILES = (LAST, BEST, TABLE, CURVE)

_KEYS = {"model", "optimizer", "schedule", "recipe", "history"}


def save_state(
    path: Path, recipe: Recipe, network: nn.Module, optimizer: Optimizer, schedule: LambdaLR, history: History
) -> None:
    """Write everything; the file appears whole or not at all.

    Random numbers are no part of it: those of an epoch follow from seed, epoch and process alone.
    """
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "recipe": recipe.as_dict(),
        "history": history.as_dict(),
    }
    with saving(path, TrainingError) as temporary:
        torch.save(content, temporary)


def load_state(path: Path, recipe: Recipe, network: nn.Module, optimizer: Optimizer, schedule: LambdaLR) -> History:
    """Put the state of a run into ``network``, ``optimizer`` and ``schedule``; returns its history.

    Raises:
        TrainingError: the file is missing, would run code, is no checkpoint, or is of a run with another recipe.
    """
    content = _same_run(path, recipe)
    try:
        history = History.from_dict(content["history"])
        network.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        schedule.load_state_dict(content["schedule"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{path}: does not fit this run ({first_line(error)})") from error
    return history


def check_resumable(path: Path, recipe: Recipe) -> None:
    """Refuse what :func:`load_state` would refuse of the file and the recipe.

    Raises:
        TrainingError: as :func:`load_state`.
    """
    _same_run(path, recipe)


def _same_run(path: Path, recipe: Recipe) -> dict[str, Any]:
    content = _read(path)
    difference = recipe.difference(content["recipe"])
    if difference is not None:
        raise TrainingError(f"{path}: cannot be resumed: {difference}")
    return content


def _read(path: Path) -> dict[str, Any]:
    first_bytes(path, TrainingError)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint fails in any of a dozen ways inside the unpickler
        raise TrainingError(f"{path}: no checkpoint that torch.load takes ({first_line(error)})") from error
    if not isinstance(content, dict) or set(content) != _KEYS:
        raise TrainingError(f"{path}: no checkpoint of a training run: expected {', '.join(sorted(_KEYS))}")
    return content


def check_run_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder of another run, or one without a run to resume."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder}: File exists, expected a folder for the run")
    if resume and not (folder / LAST).exists():
        raise TrainingError(f"{folder}: holds no {LAST}, so there is no run to resume")
    there = [name for name in FILES if (folder / name).exists()]
    if there and not resume:
        raise TrainingError(f"{folder}: holds {there[0]} of another run: resume it, or choose another folder")
