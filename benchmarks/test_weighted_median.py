"""weighted_median of a disparity map by a colour photograph, in holes and everywhere, over the copy of src as floor."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from benchmarks.images import colour_photograph
from benchmarks.weighted_median_peers import PEERS

#: name -> (share of the pixels in the mask, or None; whether disparities are whole numbers)
CASES = {
    "holes, float32": (0.12, False),
    "holes, whole numbers": (0.12, True),
    "all, float32": (None, False),
    "all, whole numbers": (None, True),
}
SIZES = ((375, 450), (1080, 1920))
#: Of a peer in calls of at least that many seconds, which are run a few times only.
ROUNDS, LONG = 15, 1.0


def disparity_map(height: int, width: int, whole: bool) -> np.ndarray:
    """Slanted surfaces of 32 pixels a side with a little noise on them."""
    generator = np.random.default_rng(0)
    surfaces = 60 * generator.random((height // 32 + 1, width // 32 + 1)).repeat(32, 0).repeat(32, 1)
    slant = np.add.outer(np.arange(height) % 32, np.arange(width) % 32) / 16
    disparity = surfaces[:height, :width] + slant + generator.normal(0, 0.2, (height, width))
    return (disparity.round() if whole else disparity).astype(np.float32)


def holes(height: int, width: int, share: float) -> np.ndarray:
    """Squares of 8 pixels a side."""
    squares = np.random.default_rng(1).random((height // 8 + 1, width // 8 + 1)) < share
    return np.ascontiguousarray(squares.repeat(8, 0).repeat(8, 1)[:height, :width])


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_filter(benchmark, size, case, peer):
    share, whole = CASES[case]
    src, (picture, guide) = disparity_map(*size, whole), colour_photograph(*size)
    call = PEERS[peer](src, guide, None if share is None else holes(*size, share))
    copy = np.zeros_like(src)
    floor: list[float] = []

    def time_floor() -> None:
        start = time.perf_counter()
        copy[...] = src
        floor.append(time.perf_counter() - start)

    start = time.perf_counter()
    call()
    rounds = 3 if time.perf_counter() - start > LONG else ROUNDS
    shape = "x".join(map(str, size))
    benchmark.group = f"{case} {shape}"
    benchmark.pedantic(call, setup=time_floor, rounds=rounds, warmup_rounds=1)
    benchmark.extra_info.update(
        case=case,
        shape=shape,
        peer=peer,
        picture=picture,
        family="weighted_median",
        floor=1e3 * statistics.median(floor[1:]),
    )
