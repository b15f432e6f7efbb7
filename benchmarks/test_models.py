"""A training step and an inference of each of the papers' networks: time and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from benchmarks.network_peers import CASES, PEERS, runs, truth
from fastseg.cli.memory import PeakMemory
from fastseg.training.losses import default_loss

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SECONDS = 1.5  # of rounds for each peer, where that gives from LEAST to MOST of them
LEAST, MOST = 3, 7


@pytest.mark.parametrize(("name", "peer"), runs(training=True))
def test_training_step(benchmark, name, peer):
    """Forward, the loss of the paper, backward, Adam."""
    network = PEERS[peer](name).to(DEVICE).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
    loss = default_loss(name)
    x, target = example(name), truth(network, CASES[name].shape).to(DEVICE)

    def step() -> None:
        loss(network(x), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # at the end, so that gradients count as memory of the step

    measure(benchmark, name, peer, "training step", step)


@pytest.mark.filterwarnings("ignore:.*found no tumour")  # of the cascade: its weights are random
@pytest.mark.parametrize(("name", "peer"), runs(training=False))
def test_inference(benchmark, name, peer):
    network = PEERS[peer](name).to(DEVICE).eval()
    x = example(name)
    with torch.inference_mode():
        measure(benchmark, name, peer, "inference", lambda: network(x))


def example(name: str) -> torch.Tensor:
    return torch.randn(CASES[name].shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def measure(benchmark, name: str, peer: str, case: str, function: Callable[[], object]) -> None:
    """Time and memory after one run, which compiles and packs weights and says how many rounds there can be."""

    def synchronized() -> None:
        function()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    start = time.perf_counter()
    synchronized()
    rounds = max(LEAST, min(MOST, int(SECONDS / (time.perf_counter() - start))))
    shape = "x".join(map(str, CASES[name].shape))
    benchmark.group = f"{name} {case}"
    benchmark.extra_info.update(case=case, shape=shape, peer=peer, family=name, network=True)
    peak = PeakMemory(DEVICE)
    benchmark.pedantic(synchronized, rounds=rounds)
    benchmark.extra_info["memory"] = peak.read()
