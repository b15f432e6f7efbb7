"""A data set that a small network learns in seconds, and folders of pictures of the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastseg.training.recipe import Recipe

SIZE = 16


class Squares:
    """Noise with a bright square; {0, 1} of (1, 16, 16) where it is."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = square(self._seed * 1000 + index)
        return torch.from_numpy(image[None]), torch.from_numpy(mask[None])


def square(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(16, 16), float32, and where the square is."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((SIZE, SIZE), bool)
    x, y = rng.integers(0, SIZE - 7, 2)
    mask[x : x + 7, y : y + 7] = True
    return (rng.standard_normal(mask.shape) + 3 * mask).astype(np.float32), mask


def small_recipe(**changes: Any) -> Recipe:
    """Of a network with three levels."""
    arguments = {"in_channels": 1, "widths": (4, 8, 16), "momentum": 0.1}
    return Recipe(
        **{"network": "resunet", "arguments": arguments, "learning_rate": 0.02, "epochs": 4, "batch_size": 4, **changes}
    )


def write_pictures(folder: Path, patients: int, slices: int = 4) -> Path:
    """``images/`` and ``masks/`` with ``slices`` pictures of each patient."""
    from fastseg.io import save_image

    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for patient in range(patients):
        for number in range(slices):
            image, mask = square(100 * patient + number)
            name = f"case{patient}_{number}.png"
            save_image(folder / "images" / name, np.clip(100 + 25 * image, 1, 255).astype(np.uint8))
            save_image(folder / "masks" / name, mask)
    return folder
