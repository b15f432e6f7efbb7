"""winner_takes_all beside eager PyTorch, torch.compile and NumPy, over reading the volume once as the floor."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from benchmarks.conftest import rounds_for
from benchmarks.winner_takes_all_peers import WINNER_PEERS

SHAPES = ((64, 375, 450), (128, 540, 960))
DTYPES = (torch.float32, torch.float16)


@pytest.mark.parametrize("peer", WINNER_PEERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_winner(benchmark, shape, dtype, peer):
    if dtype == torch.float16 and peer == "NumPy":
        pytest.skip("NumPy converts every number by itself: seconds")
    costs = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    words = costs.view(-1).view(torch.float32)  # read at the same speed for every dtype
    function = WINNER_PEERS[peer]()
    floor: list[float] = []

    def time_floor() -> None:
        start = time.perf_counter()
        words.amax()
        floor.append(time.perf_counter() - start)

    name, case = "x".join(map(str, shape)), str(dtype).removeprefix("torch.")
    benchmark.group = f"{case} {name}"
    call = lambda: function(costs)  # noqa: E731
    benchmark.pedantic(call, setup=time_floor, rounds=rounds_for(call), warmup_rounds=1)
    benchmark.extra_info.update(
        case=case, shape=name, peer=peer, family="winner_takes_all", floor=1e3 * statistics.median(floor[1:])
    )
