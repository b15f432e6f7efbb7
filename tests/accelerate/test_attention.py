"""Squeeze and excitation, scSE and CBAM inside other people's models."""

from __future__ import annotations

import copy
import pickle
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from tests.accelerate.conftest import CheckNetwork

squeeze = pytest.importorskip("monai.networks.blocks.squeeze_and_excitation")


@pytest.mark.parametrize("residual", (False, True))
@pytest.mark.parametrize("image", ((9, 10), (5, 6, 7)), ids=str)
def test_monai_squeeze(image, residual, check_network: CheckNetwork):
    model = nn.Sequential(squeeze.ChannelSELayer(len(image), 8, r=2, add_residual=residual))
    assert "FusedChannelSELayer" in str(check_network(model, torch.randn(2, 8, *image)))


@pytest.mark.parametrize(
    "layer,why",
    (
        (squeeze.ChannelSELayer(2, 8, acti_type_1="leakyrelu"), "fc.1 is LeakyReLU, expected torch.nn.ReLU"),
        (squeeze.ChannelSELayer(1, 8), "one spatial axis has no fused kernel"),
    ),
    ids=("leaky", "1d"),
)
def test_monai_squeeze_that_is_left(layer, why):
    model = fastseg.accelerate(nn.Sequential(layer))
    assert type(model[0]) is squeeze.ChannelSELayer
    assert why in str(fastseg.report(model))


class SCSEModule(nn.Module):
    """As segmentation_models_pytorch.base.modules has it."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.cSE(x) + x * self.sSE(x)


def test_smp_concurrent(monkeypatch, check_network: CheckNetwork):
    """SMP needs torchvision's operators, which this torch build may not have: a class of its name and structure."""
    name = "segmentation_models_pytorch.base.modules"
    module = types.ModuleType(name)
    module.SCSEModule = SCSEModule
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(SCSEModule, "__module__", name)
    found = str(check_network(nn.Sequential(SCSEModule(8, 4)), torch.randn(2, 8, 10, 11)))
    assert "FusedSCSE" in found


class Pool(nn.Module):
    max_first = True

    def forward(self, x):
        maps = [torch.max(x, 1, keepdim=True)[0], torch.mean(x, 1, keepdim=True)]
        return torch.cat(maps if self.max_first else maps[::-1], 1)


class Block(nn.Module):
    def __init__(self, kernel: int, bn: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01) if bn else None

    def forward(self, x):
        x = self.conv(x)
        return x if self.bn is None else self.bn(x)


class Channels(nn.Module):
    def __init__(self, channels: int, ratio: int, pools: tuple[str, ...]) -> None:
        super().__init__()
        hidden = channels // ratio
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.pools = pools

    def forward(self, x):
        functions = {"avg": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}
        logits = [self.mlp(functions[pool](x, 1)) for pool in self.pools]
        return x * torch.sigmoid(sum(logits))[..., None, None]


class Space(nn.Module):
    def __init__(self, kernel: int, bn: bool) -> None:
        super().__init__()
        self.compress = Pool()
        self.spatial = Block(kernel, bn)

    def forward(self, x):
        return x * torch.sigmoid(self.spatial(self.compress(x)))


class CBAM(nn.Module):
    """With the names of the authors' code."""

    def __init__(self, channels: int, ratio: int = 4, kernel: int = 7, bn: bool = True, pools=("avg", "max")) -> None:
        super().__init__()
        self.ChannelGate = Channels(channels, ratio, pools)
        self.SpatialGate = Space(kernel, bn)

    def forward(self, x):
        return self.SpatialGate(self.ChannelGate(x))


@pytest.mark.parametrize("max_first", (False, True))
@pytest.mark.parametrize("bn", (False, True))
def test_public_cbam(bn, max_first, check_network: CheckNetwork):
    model = nn.Sequential(CBAM(8, kernel=3, bn=bn), nn.Conv2d(8, 2, 1))
    model[0].SpatialGate.compress.max_first = max_first
    found = str(check_network(model, torch.randn(2, 8, 10, 11)))
    assert f"FusedCBAM, maps {'max_mean' if max_first else 'mean_max'}" in found


def test_running_statistics_go_on():
    stock = nn.Sequential(CBAM(8)).train()
    fused = fastseg.accelerate(copy.deepcopy(stock))
    x = torch.randn(2, 8, 10, 11)
    for _ in range(2):
        stock(x), fused(x)
    for a, b in zip(stock.buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_accelerated_cbam_pickles():
    fused = fastseg.accelerate(nn.Sequential(CBAM(8)).eval())
    x = torch.randn(1, 8, 6, 7)
    again = pickle.loads(pickle.dumps(fused))
    assert torch.equal(fused(x), again(x))
    assert type(fastseg.restore(again)[0]) is CBAM


def test_cbam_that_computes_something_else_is_left():
    other = CBAM(8, pools=("avg",))
    hooked = CBAM(8)
    hooked.SpatialGate.register_forward_hook(lambda *_: None)
    for layer, why in ((other, "it gives something else than CBAM"), (hooked, "SpatialGate has hooks")):
        model = fastseg.accelerate(nn.Sequential(layer))
        assert type(model[0]) is CBAM
        assert why in str(fastseg.report(model))
