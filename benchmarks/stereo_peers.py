"""Stereo matching today: OpenCV's semi-global matcher, alone and with its WLS filter, at the best of what was tried.

One setting for all pairs. Tried on teddy, cones and motorcycle: grey and colour, blocks of 1 and 3, caps of 15, 31 and
63, a uniqueness of 0 and 10 %, penalties of 4 to 16 and 24 to 96, lambdas from 200 to 8000, sigmas from 0.1 to 1; in
colour also blocks of 5, sigma 1.5, and paths of five and eight directions. Costs of grey images with a small sigma are
clearly better than those of colours with a large one, which are more usual and a peer of their own.

OpenCV has no disparity for the first columns of the left image: both images are widened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import cv2
import cv2.ximgproc
import numpy as np
import torch

from benchmarks.stereo_pairs import Pair
from fastseg.stereo import PRESETS, StereoMatcher, fill_invalid


@dataclass(frozen=True)
class Peer:
    """A matcher of one pair.

    Attributes:
        match: what is timed.
        dense: from what that gave to a disparity for every pixel, which is scored and not timed.
        seconds: of each stage, from what that gave.
    """

    match: Callable[[], object]
    dense: Callable[[object], np.ndarray]
    seconds: Callable[[object], Mapping[str, float]] = field(default=lambda found: {})


def preset(name: str, pair: Pair) -> Peer:
    matcher = StereoMatcher.preset(name, max_disparity=pair.max_disparity)
    match = lambda: matcher.match(pair.left, pair.right)  # noqa: E731
    return Peer(match, lambda found: found.disparity, lambda found: found.seconds)


def sgbm(pair: Pair) -> Peer:
    columns = _columns(pair)
    images = [_widened(_grey(image), columns) for image in (pair.left, pair.right)]
    matcher = _matcher(columns, channels=1, block=3, cap=15, uniqueness=10)
    return Peer(lambda: matcher.compute(*images), lambda found: _dense(found, columns))


def sgbm_wls(pair: Pair) -> Peer:
    return _with_wls(pair, [_grey(image) for image in (pair.left, pair.right)], lambda_=200, sigma=0.3)


def sgbm_wls_colour(pair: Pair) -> Peer:
    return _with_wls(pair, [_blue_first(image) for image in (pair.left, pair.right)], lambda_=8000, sigma=1.0)


#: name -> what makes it ready for a pair
STEREO_PEERS: dict[str, Callable[[Pair], Peer]] = {
    **{f"fastseg {name}": lambda pair, name=name: preset(name, pair) for name in PRESETS},
    "OpenCV SGBM": sgbm,
    "OpenCV SGBM + WLS": sgbm_wls,
    "OpenCV SGBM + WLS, colour": sgbm_wls_colour,
}


def _with_wls(pair: Pair, images: list[np.ndarray], *, lambda_: float, sigma: float) -> Peer:
    columns = _columns(pair)
    left, right = (_widened(image, columns) for image in images)
    guide = _widened(_blue_first(pair.left), columns)
    matcher = _matcher(columns, channels=3 if left.ndim == 3 else 1, block=1, cap=63)
    other = cv2.ximgproc.createRightMatcher(matcher)
    smoother = cv2.ximgproc.createDisparityWLSFilter(matcher)
    smoother.setLambda(lambda_)
    smoother.setSigmaColor(sigma)

    def match() -> np.ndarray:
        return smoother.filter(matcher.compute(left, right), guide, None, other.compute(right, left))

    return Peer(match, lambda found: _dense(found, columns))


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _blue_first(image: np.ndarray) -> np.ndarray:
    """OpenCV's order of colours."""
    return np.ascontiguousarray(image[..., ::-1])


def _columns(pair: Pair) -> int:
    """Disparities that OpenCV searches, a multiple of 16, and by how many columns images are widened."""
    return -(-pair.max_disparity // 16) * 16


def _widened(image: np.ndarray, columns: int) -> np.ndarray:
    return cv2.copyMakeBorder(image, 0, 0, columns, columns, cv2.BORDER_REPLICATE)


def _matcher(disparities: int, *, channels: int, block: int, cap: int, uniqueness: int = 0) -> cv2.StereoSGBM:
    cv2.setNumThreads(torch.get_num_threads())
    area = channels * block * block
    return cv2.StereoSGBM_create(
        minDisparity=0,
        numDisparities=disparities,
        blockSize=block,
        P1=8 * area,
        P2=32 * area,
        preFilterCap=cap,
        uniquenessRatio=uniqueness,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )


def _dense(found: np.ndarray, columns: int) -> np.ndarray:
    """Pixels of the pair itself; those without a disparity, which are negative or infinite, filled."""
    disparity = found[:, columns:-columns].astype(np.float32) / 16  # fixed point
    return fill_invalid(disparity, (disparity >= 0) & (disparity <= columns))
