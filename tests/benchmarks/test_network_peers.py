"""The networks that are timed: all there are, each peer with the same weights and the same result."""

from __future__ import annotations

import pytest
import torch

from benchmarks.network_peers import CASES, PEERS, runs, truth
from fastseg.models import create, list_models

pytest.importorskip("monai")

from fastseg.training.losses import default_loss


def test_all_networks_are_timed() -> None:
    assert set(CASES) == set(list_models())
    assert {name for name, _ in runs(training=False)} == set(CASES)
    assert {name for name, _ in runs(training=True)} == set(CASES) - {"dm_da_unet"}
    for training in (True, False):
        assert {name for name, peer in runs(training) if "compile" in peer} == set(CASES) - {"dm_da_unet"}


def test_peers_are_the_same_network() -> None:
    """Of the smallest network; that all agree with plain torch is what the tests of models say."""
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    values = {}
    for peer in PEERS.keys() - {"torch.compile"}:
        network = PEERS[peer]("resunet")
        value = default_loss("resunet")(network(x), truth(network, tuple(x.shape)))
        value.backward()
        values[peer] = value.item()
        assert all(parameter.grad is not None for parameter in network.parameters())
    assert values == pytest.approx(dict.fromkeys(values, values["eager"]), rel=1e-3)


def test_the_truth_of_regions() -> None:
    network = create("resunet", out_channels=3)
    regions = truth(network, (2, 3, 16, 16))
    assert regions.dtype == torch.bool and regions.shape == (2, 3, 16, 16) and 0 < regions.float().mean() < 0.5
