"""weighted_median of a disparity map by a colour photograph, in holes and everywhere, over the copy of src as floor."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from benchmarks.conftest import rounds_for
from benchmarks.images import colour_photograph
from benchmarks.weighted_median_peers import PEERS

#: name -> (share of the pixels in the mask, or None; whether disparities are whole numbers)
CASES = {
    "holes, float32": (0.12, False),
    "holes, whole numbers": (0.12, True),
    "all, float32": (None, False),
    "all, whole numbers": (None, True),
}
SMALL, LARGE = (375, 450), (1080, 1920)
#: PyTorch gathers and sorts every window: minutes a call of the large size.
PEERS_OF = {SMALL: tuple(PEERS), LARGE: tuple(peer for peer in PEERS if peer != "PyTorch")}


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


@pytest.mark.parametrize(
    ("size", "peer"), [(size, peer) for size, peers in PEERS_OF.items() for peer in peers], ids=str
)
@pytest.mark.parametrize("case", CASES)
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

    shape = "x".join(map(str, size))
    benchmark.group = f"{case} {shape}"
    benchmark.pedantic(call, setup=time_floor, rounds=rounds_for(call), warmup_rounds=1)
    benchmark.extra_info.update(
        case=case,
        shape=shape,
        peer=peer,
        picture=picture,
        family="weighted_median",
        floor=1e3 * statistics.median(floor[1:]),
    )
