"""The weighted median as it is run today: OpenCV, and windows gathered and sorted in PyTorch.

A peer is made from a disparity map, a colour guide (3, H, W) in [0, 1] and a mask or None, all of which it may prepare;
what it returns is timed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fastseg import reference
from fastseg.ops import weighted_median

RADIUS = 9
SIGMA_COLOR = 0.1
SIGMA_SPACE = 9.0

Call = Callable[[], object]


def fastseg(src: np.ndarray, guide: np.ndarray, mask: np.ndarray | None) -> Call:
    settings = {"radius": RADIUS, "sigma_color": SIGMA_COLOR, "sigma_space": SIGMA_SPACE}
    return lambda: weighted_median(src, guide, mask=mask, **settings)


def opencv(src: np.ndarray, guide: np.ndarray, mask: np.ndarray | None) -> Call:
    """All pixels, whatever the mask. It has no weights of distance, and 256 different colours and values at most."""
    cv2 = pytest.importorskip("cv2")
    cv2.setNumThreads(torch.get_num_threads())
    colours = np.ascontiguousarray((255 * guide).round().astype(np.uint8).transpose(1, 2, 0))
    sigma = 255 * SIGMA_COLOR / 2**0.5  # exp(-d^2 / (2 sigma^2))
    return lambda: cv2.ximgproc.weightedMedianFilter(colours, src, RADIUS, sigma, cv2.ximgproc.WMF_EXP)


def pytorch(src: np.ndarray, guide: np.ndarray, mask: np.ndarray | None) -> Call:
    tensors = torch.from_numpy(src), torch.from_numpy(guide)
    where = None if mask is None else torch.from_numpy(mask)
    settings = {"radius": RADIUS, "sigma_color": SIGMA_COLOR, "sigma_space": SIGMA_SPACE}
    return lambda: reference.weighted_median(*tensors, mask=where, **settings)


PEERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray | None], Call]] = {
    "fastseg": fastseg,
    "OpenCV": opencv,
    "PyTorch": pytorch,
}
