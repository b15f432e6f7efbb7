"""A training step and an inference of each of the papers' networks: time and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from benchmarks.conftest import BesideOurs, synchronized
from benchmarks.network_peers import CASES, OURS, PEERS, runs, truth
from fastseg.cli.memory import PeakMemory
from fastseg.training.losses import default_loss

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SECONDS = 1.5  # of rounds for each peer, where that gives from LEAST to MOST of them
LEAST, MOST = 3, 7


@pytest.mark.parametrize(("name", "peer"), runs(training=True))
def test_training_step(benchmark, beside_ours, name, peer):
    """Forward, the loss of the paper, backward, Adam."""

    def step_of(peer: str) -> Callable[[], None]:
        network = PEERS[peer](name).to(DEVICE).train()
        optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
        loss = default_loss(name)
        x, target = example(name), truth(network, CASES[name].shape).to(DEVICE)

        def step() -> None:
            loss(network(x), target).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # at the end, so that gradients count as memory of the step

        return step

    measure(benchmark, beside_ours, name, peer, "training step", step_of)


@pytest.mark.filterwarnings("ignore:.*found no tumour")  # of the cascade: its weights are random
@pytest.mark.parametrize(("name", "peer"), runs(training=False))
def test_inference(benchmark, beside_ours, name, peer):
    def run_of(peer: str) -> Callable[[], object]:
        network, x = PEERS[peer](name).to(DEVICE).eval(), example(name)
        return torch.inference_mode()(lambda: network(x))

    measure(benchmark, beside_ours, name, peer, "inference", run_of)


def example(name: str) -> torch.Tensor:
    return torch.randn(CASES[name].shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def measure(
    benchmark, beside_ours: BesideOurs, name: str, peer: str, case: str, prepare: Callable[[str], Callable[[], object]]
) -> None:
    """Memory, then time: after one run, which compiles and packs weights, and one that says how many there can be."""
    function = synchronized(prepare(peer))
    function()
    peak = PeakMemory(DEVICE)
    start = time.perf_counter()
    function()
    rounds = max(LEAST, min(MOST, int(SECONDS / (time.perf_counter() - start))))
    shape = "x".join(map(str, CASES[name].shape))
    benchmark.group = f"{name} {case}"
    benchmark.extra_info.update(case=case, shape=shape, peer=peer, family=name, network=True, memory=peak.read())
    if peer == OURS:
        benchmark.pedantic(function, rounds=rounds)
    else:
        beside_ours(function, lambda: prepare(OURS), rounds)
