"""Pictures that benchmarks of the stereo side run on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("FASTSEG_DATA") or Path(__file__).parents[2] / "shared" / "data")
ALOE = DATA / "stereo" / "aloe_full" / "aloeL.jpg"


def grey_photograph(height: int, width: int) -> tuple[str, np.ndarray]:
    """A name and a grey float32 picture in [0, 1]: Middlebury's Aloe, mirrored where it is too small.

    Where it is not there, smooth patches with noise on them.
    """
    return _photograph(height, width, "L")


def colour_photograph(height: int, width: int) -> tuple[str, np.ndarray]:
    """The same in colour: (3, height, width)."""
    name, picture = _photograph(height, width, "RGB")
    return name, np.ascontiguousarray(picture.transpose(2, 0, 1))


def _photograph(height: int, width: int, mode: str) -> tuple[str, np.ndarray]:
    if ALOE.exists():
        from PIL import Image

        picture = np.asarray(Image.open(ALOE).convert(mode), dtype=np.float32) / 255
        name = "Aloe"
    else:
        random = np.random.default_rng(0)
        channels = () if mode == "L" else (3,)
        patches = random.random((45, 52, *channels), dtype=np.float32).repeat(25, 0).repeat(25, 1)
        picture = np.clip(patches + random.normal(0, 0.02, patches.shape).astype(np.float32), 0, 1)
        name = "synthetic patches"
    while picture.shape[0] < height:
        picture = np.concatenate((picture, picture[::-1]))
    while picture.shape[1] < width:
        picture = np.concatenate((picture, picture[:, ::-1]), axis=1)
    return name, np.ascontiguousarray(picture[:height, :width])
