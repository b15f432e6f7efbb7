"""guided_filter beside OpenCV, kornia, eager PyTorch and torch.compile, over the copy of src as the floor."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from benchmarks.guided_filter_peers import GUIDED_FILTER_PEERS, WINNER_PEERS, Settings
from benchmarks.images import colour_photograph, grey_photograph

VOLUME = (64, 375, 450)
IMAGE = (1024, 1024)
GUIDES = {"grey": grey_photograph, "colour": colour_photograph}
#: name -> (kind of guide, dtype, settings, peers)
VOLUMES = {
    "volume, colour guide": ("colour", np.float32, Settings(), tuple(GUIDED_FILTER_PEERS)),
    "volume, grey guide": ("grey", np.float32, Settings(), tuple(GUIDED_FILTER_PEERS)),
    "volume, colour guide, radius 40": ("colour", np.float32, Settings(radius=40), ("fastseg", "OpenCV")),
    "volume, colour guide, subsample 4": ("colour", np.float32, Settings(subsample=4), ("fastseg", "OpenCV", "kornia")),
    "volume, colour guide, float16": ("colour", np.float16, Settings(), ("fastseg", "eager")),
}
IMAGE_PEERS = tuple(peer for peer in GUIDED_FILTER_PEERS if peer != "torch.compile")


def run(
    benchmark, case: str, peer: str, guide: np.ndarray, src: np.ndarray, settings: Settings, peers=GUIDED_FILTER_PEERS
) -> None:
    make, warm_up, rounds = peers[peer]
    function = make(guide, src, settings)
    source = torch.from_numpy(src)
    target = torch.zeros_like(source)
    floor: list[float] = []

    def time_floor() -> None:
        start = time.perf_counter()
        target.copy_(source)
        floor.append(time.perf_counter() - start)

    shape = "x".join(map(str, src.shape))
    benchmark.group = f"{case} {shape}"
    benchmark.pedantic(function, setup=time_floor, rounds=rounds, warmup_rounds=warm_up)
    benchmark.extra_info.update(
        case=case, shape=shape, peer=peer, family="guided_filter", floor=1e3 * statistics.median(floor[warm_up:])
    )


@pytest.mark.large
@pytest.mark.parametrize(("case", "peer"), [(case, peer) for case, (*_, peers) in VOLUMES.items() for peer in peers])
def test_volume(benchmark, case, peer):
    kind, dtype, settings, _ = VOLUMES[case]
    guide = GUIDES[kind](*VOLUME[1:])[1]
    src = np.random.default_rng(0).random(VOLUME, dtype=np.float32).astype(dtype)
    run(benchmark, case, peer, guide, src, settings)


@pytest.mark.parametrize("peer", IMAGE_PEERS)
@pytest.mark.parametrize("kind", GUIDES)
def test_image(benchmark, kind, peer):
    """A noisy grey image by a photograph."""
    src = np.random.default_rng(0).random(IMAGE, dtype=np.float32)
    run(benchmark, f"grey image, {kind} guide", peer, GUIDES[kind](*IMAGE)[1], src, Settings())


@pytest.mark.large
@pytest.mark.parametrize("peer", WINNER_PEERS)
def test_winner(benchmark, peer):
    guide = colour_photograph(*VOLUME[1:])[1]
    src = np.random.default_rng(0).random(VOLUME, dtype=np.float32)
    run(benchmark, "winner of a volume, colour guide", peer, guide, src, Settings(), WINNER_PEERS)
