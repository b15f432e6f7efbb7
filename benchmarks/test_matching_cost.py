"""matching_cost and census_transform beside plain PyTorch and NumPy, over the fill of the volume as the floor."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from benchmarks.peers import CENSUS_PEERS, MATCHING_COST_PEERS

HEIGHT, WIDTH, DISPARITIES = 375, 450, 64
CASES: dict[str, dict] = {
    "AD and gradient": {},
    "AD, gradient and census 7x9": {"census_weight": 0.3},
    "AD, gradient and census 7x9, float16": {"census_weight": 0.3, "dtype": np.float16},
    "AD-census": {"cost": "ad_census"},
}
ROUNDS = {"fastseg": 41, "eager": 5, "NumPy": 5}
WARM_UP = 3


def photographs(channels: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with noise on it, and the same seven pixels further with other noise."""
    generator = np.random.default_rng(0)
    wide = generator.random((channels, height // 5 + 1, (width + 7) // 5 + 1)).repeat(5, 1).repeat(5, 2)
    left, right = (wide[:, :height, at : at + width] for at in (0, 7))
    noisy = [np.clip(image + generator.normal(0, 0.02, image.shape), 0, 1) for image in (left, right)]
    return noisy[0].astype(np.float32), noisy[1].astype(np.float32)


def timed_fill(volume: torch.Tensor, floor: list[float]) -> None:
    """Into memory that is there, by all threads."""
    start = time.perf_counter()
    volume.fill_(1.0)
    floor.append(time.perf_counter() - start)


@pytest.mark.parametrize("peer", MATCHING_COST_PEERS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.large
def test_cost(benchmark, case, peer):
    function, arguments = MATCHING_COST_PEERS[peer], CASES[case]
    left, right = photographs(3, HEIGHT, WIDTH)
    dtype = torch.float16 if "dtype" in arguments else torch.float32
    volume, floor = torch.zeros((DISPARITIES, HEIGHT, WIDTH), dtype=dtype), []
    shape = f"{DISPARITIES}x{HEIGHT}x{WIDTH}"
    benchmark.group = f"{case} {shape}"
    benchmark.pedantic(
        lambda: function(left, right, max_disparity=DISPARITIES, **arguments),
        setup=lambda: timed_fill(volume, floor),
        rounds=ROUNDS[peer],
        warmup_rounds=WARM_UP,
    )
    benchmark.extra_info.update(
        case=case, shape=shape, peer=peer, family="matching_cost", floor=1e3 * statistics.median(floor[WARM_UP:])
    )


@pytest.mark.parametrize("peer", CENSUS_PEERS)
def test_census(benchmark, peer):
    function = CENSUS_PEERS[peer]
    image = photographs(1, 1024, 1024)[0][0]
    words, floor = torch.zeros((1024, 1024), dtype=torch.int64), []
    benchmark.group = "census 9x7 1024x1024"
    benchmark.pedantic(
        lambda: function(image, window=(9, 7)),
        setup=lambda: timed_fill(words, floor),
        rounds=ROUNDS[peer],
        warmup_rounds=WARM_UP,
    )
    benchmark.extra_info.update(
        case="census 9x7", shape="1024x1024", peer=peer, family="matching_cost",
        floor=1e3 * statistics.median(floor[WARM_UP:]),
    )  # fmt: skip
