"""Rectified pairs with a known truth: Middlebury's, where they are there, and the one that the package renders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.images import DATA
from fastseg.stereo import RectifiedCalibration, StereoScores, evaluate_disparity, middlebury_masks, rendered_pair

STEREO = DATA / "stereo"
_MOTORCYCLE = STEREO / "midd2014_motorcycle_q"
_ALOE = STEREO / "aloe_full"


@dataclass(frozen=True)
class Pair:
    """Left and right (H, W, 3), uint8, RGB; the truth (H, W), float32, NaN where it is not known; regions of it."""

    left: np.ndarray
    right: np.ndarray
    truth: np.ndarray
    max_disparity: int
    masks: Mapping[str, np.ndarray]
    calibration: RectifiedCalibration | None = None

    @property
    def shape(self) -> str:
        height, width = self.truth.shape
        return f"{height}x{width}, {self.max_disparity} disparities"

    def scores(self, disparity: np.ndarray) -> StereoScores:
        """Over everything whose truth is known, and over each region."""
        return evaluate_disparity(disparity, self.truth, masks={"known": np.isfinite(self.truth), **self.masks})


@cache
def pair_of(name: str) -> Pair:
    """One of :data:`PAIRS`; skips the test where the files of a real one are not there."""
    try:
        return PAIRS[name]()
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not there: set FASTSEG_DATA to the folder that holds the real inputs")


def _rendered() -> Pair:
    pair = rendered_pair()
    left, right = (np.ascontiguousarray(image.transpose(1, 2, 0)) for image in (pair.left, pair.right))
    calibration = pair.calibration
    assert calibration.max_disparity is not None
    return Pair(left, right, pair.disparity, calibration.max_disparity, {"nonocc": ~pair.occluded}, calibration)


def _middlebury_2003(name: str) -> Pair:
    folder = STEREO / "middv2" / name
    left, right = (_picture(folder / file, "RGB") for file in ("imL.png", "imR.png"))
    regions = {region: _picture(folder / f"{region}.png", "L") for region in ("nonocc", "all", "disc")}
    truth = _known(_picture(folder / "groundtruth.png", "L")) / 4
    return Pair(left, right, truth, 60, middlebury_masks(**regions))


def _motorcycle() -> Pair:
    left, right = (_picture(_MOTORCYCLE / f"motorcycle_{side}.png", "RGB") for side in ("left", "right"))
    with np.load(_MOTORCYCLE / "motorcycle_disp.npz") as file:
        truth = file["arr_0"].astype(np.float32)
    truth[~np.isfinite(truth)] = np.nan
    calibration = RectifiedCalibration(994.978, 193.001, doffs=31.086, cx=311.193, cy=254.877)  # millimetres
    return Pair(left, right, truth, 64, {}, calibration)


def _aloe() -> Pair:
    left, right = (_picture(_ALOE / f"aloe{side}.jpg", "RGB") for side in "LR")
    return Pair(left, right, _known(_picture(_ALOE / "aloeGT.png", "L")), 224, {})


#: name -> how it is loaded
PAIRS: dict[str, Callable[[], Pair]] = {
    "rendered": _rendered,
    "teddy": lambda: _middlebury_2003("teddy"),
    "cones": lambda: _middlebury_2003("cones"),
    "motorcycle": _motorcycle,
    "aloe": _aloe,
}


def _picture(path: Path, mode: str) -> np.ndarray:
    from PIL import Image

    return np.array(Image.open(path).convert(mode))


def _known(values: np.ndarray) -> np.ndarray:
    """0 is unknown."""
    return np.where(values == 0, np.nan, values).astype(np.float32)
