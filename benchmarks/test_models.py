"""Training steps of the papers' networks: as created, and the same network of plain torch layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from fastseg import models

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = (2, 3, 256, 256)
BATCHES = {"dense_unet_2d": (2, 4, 240, 240), "da_unet_3d": (1, 4, 64, 64, 64)}
CASES: dict[str, dict[str, Any]] = {
    "unet": {},
    "unet_cbam": {},
    "resunet": {"out_channels": 2},
    "resunet_ce_aspp": {},
    "dense_unet_2d": {},
    "da_unet_3d": {"out_channels": 2, "output": "softmax"},
}


def plain(name: str, channels_last: bool) -> nn.Module:
    with fastseg.backend("reference"):
        return models.create(name, channels_last=channels_last, **CASES[name])


PEERS: dict[str, Callable[[str], Any]] = {
    "fastseg": lambda name: models.create(name, **CASES[name]),
    "fastseg, contiguous": lambda name: models.create(name, channels_last=False, **CASES[name]),
    "fastseg, channels-last": lambda name: models.create(name, channels_last=True, **CASES[name]),
    "eager": lambda name: plain(name, False),
    "eager, channels-last": lambda name: plain(name, True),
    "torch.compile": lambda name: torch.compile(plain(name, False)),
    "torch.compile, channels-last": lambda name: torch.compile(plain(name, True)),
}


@pytest.mark.large
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", CASES)
def test_training_step(benchmark, name, peer):
    torch.manual_seed(0)
    torch._dynamo.reset()
    network = PEERS[peer](name).to(DEVICE)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
    batch = BATCHES.get(name, BATCH)
    images = torch.randn(batch, device=DEVICE)
    labels = torch.randint(0, 2, (batch[0], *batch[2:]), device=DEVICE)
    benchmark.group = f"{name} training step"
    benchmark.extra_info.update(case="training step", shape="x".join(map(str, batch)), peer=peer, family=name)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
