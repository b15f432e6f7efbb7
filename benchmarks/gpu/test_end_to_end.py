"""Training steps of whole networks under bfloat16 autocast: stock eager, stock compiled, and on fastseg's layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

import fastseg
from benchmarks.gpu import record
from benchmarks.network_peers import truth
from benchmarks.peers import channels_last
from fastseg import models
from fastseg.accelerate.memory_format import channels_last_on
from fastseg.cli.memory import PeakMemory

if record.RUN is None:
    pytest.skip("python -m benchmarks.gpu runs these", allow_module_level=True)

SMOKE = record.RUN.smoke
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def nnunet(name: str) -> nn.Module:
    """nnU-Net's 3d_fullres networks: its plain one, and the medium one with residual encoder."""
    unets = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    stages = 2 if SMOKE else 6
    options: dict[str, Any] = {
        "input_channels": 1,
        "n_stages": stages,
        "features_per_stage": (32, 64, 128, 256, 320, 320)[:stages],
        "conv_op": nn.Conv3d,
        "kernel_sizes": 3,
        "strides": (1, 2, 2, 2, 2, 2)[:stages],
        "num_classes": 3,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }
    if name == "PlainConvUNet":
        return unets.PlainConvUNet(n_conv_per_stage=2, n_conv_per_stage_decoder=2, **options)
    blocks = (1, 3, 4, 6, 6, 6)[:stages]
    return unets.ResidualEncoderUNet(n_blocks_per_stage=blocks, n_conv_per_stage_decoder=1, **options)


def mednext(kernel: int) -> nn.Module:
    nets = pytest.importorskip("monai.networks.nets.mednext")
    if SMOKE:
        return nets.MedNeXt(spatial_dims=3, init_filters=4, in_channels=1, out_channels=2, kernel_size=kernel)
    return nets.MedNeXtSmall(spatial_dims=3, in_channels=1, out_channels=2, kernel_size=kernel)


@dataclass(frozen=True)
class Problem:
    """A network and the shape of its input; ``ours``: made by fastseg, with a plain twin, and not accelerated."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    small: tuple[int, ...]
    ours: bool = False


PROBLEMS = {
    "ResEnc-M": Problem(lambda: nnunet("ResEnc-M"), (2, 1, 128, 128, 128), (1, 1, 8, 8, 8)),
    "PlainConvUNet": Problem(lambda: nnunet("PlainConvUNet"), (2, 1, 128, 128, 128), (1, 1, 8, 8, 8)),
    "MedNeXt-S k3": Problem(lambda: mednext(3), (2, 1, 128, 128, 128), (1, 1, 32, 32, 32)),
    "MedNeXt-S k5": Problem(lambda: mednext(5), (2, 1, 128, 128, 128), (1, 1, 32, 32, 32)),
    "da_unet_3d": Problem(lambda: models.create("da_unet_3d"), (1, 4, 128, 128, 128), (1, 4, 16, 16, 16), ours=True),
    "unet_cbam": Problem(lambda: models.create("unet_cbam"), (8, 3, 256, 256), (1, 3, 32, 32), ours=True),
}


@lru_cache(1)  # peers of one network follow each other
def stock(name: str) -> nn.Module:
    """With the plain twin of the papers' networks; always with the same weights."""
    torch.manual_seed(0)
    problem = PROBLEMS[name]
    if not problem.ours:
        return problem.make()
    with fastseg.backend("reference"):
        return problem.make()


def ours(name: str, last: bool) -> nn.Module:
    if not PROBLEMS[name].ours:
        return fastseg.accelerate(copy.deepcopy(stock(name)), channels_last=last)
    network = models.create(name, channels_last=last)
    network.load_state_dict(stock(name).state_dict())
    return network


def compiled(name: str, mode: str | None = None) -> nn.Module:
    torch._dynamo.reset()
    return torch.compile(copy.deepcopy(stock(name)), mode=mode)


PEERS: dict[str, Callable[[str], nn.Module]] = {
    "fastseg": lambda name: ours(name, False),
    "fastseg channels-last": lambda name: ours(name, True),
    "eager": lambda name: copy.deepcopy(stock(name)),
    "eager channels-last": lambda name: copy.deepcopy(stock(name)),
    "torch.compile": compiled,
}


def value_of(network: nn.Module, x: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """The mean cross entropy or, for stock networks, of squares: the loss is the same for every peer, and short."""
    logits = network(x)
    logits = logits[0] if isinstance(logits, (list, tuple)) else logits
    if target is None:
        return logits.float().square().mean()
    if target.dtype == torch.bool:
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), target.float())
    return nn.functional.cross_entropy(logits.float(), target)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_training_step(benchmark, name, peer):
    problem = PROBLEMS[name]
    shape = problem.small if SMOKE else problem.shape
    network = PEERS[peer](name).to(DEVICE).train()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    if peer.endswith("channels-last"):
        x = channels_last(x)
        if peer.startswith("eager"):
            channels_last_on(network)
    target = truth(stock(name), shape).to(DEVICE) if problem.ours else None
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            value = value_of(network, x, target)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    benchmark.group = f"{name} training step, bf16"
    size = "x".join(map(str, shape))
    benchmark.extra_info.update(case="training step, bf16 autocast", shape=size, peer=peer, family=name, network=True)
    peak = PeakMemory(DEVICE)
    benchmark.pedantic(step, rounds=5)
    benchmark.extra_info["memory"] = peak.read()
