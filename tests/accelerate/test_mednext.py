"""MedNeXt, MONAI's and the original, whole networks and what is left."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks import mednext_block
from monai.networks.nets import mednext
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastseg
from tests.accelerate.conftest import CheckNetwork


def network(**arguments: Any) -> nn.Module:
    return mednext.MedNeXt(
        **{"in_channels": 1, "out_channels": 2, "init_filters": 4, "kernel_size": 3, "encoder_expansion_ratio": 2,
           "decoder_expansion_ratio": 2, "bottleneck_expansion_ratio": 2, "blocks_down": (1, 1), "blocks_bottleneck": 1,
           "blocks_up": (1, 1), "use_residual_connection": True, "global_resp_norm": False, **arguments}
    )  # fmt: skip


@pytest.mark.parametrize("arguments", ({"spatial_dims": 3}, {"spatial_dims": 2, "kernel_size": 5}), ids=str)
@pytest.mark.parametrize("grn", (False, True))
def test_whole_network(arguments, grn, check_network: CheckNetwork):
    model = network(**arguments, global_resp_norm=grn)
    if grn:
        for name, parameter in model.named_parameters():
            if "global_resp" in name:
                nn.init.normal_(parameter)
    x = torch.randn(2, 1, *[16] * arguments["spatial_dims"])
    found = str(check_network(model, x))
    assert "FusedMedNeXtBlock, conv1 gathers the statistics of norm" in found
    assert "FusedMedNeXtDownBlock" in found and "FusedMedNeXtUpBlock" in found


def test_the_statistics_come_from_the_convolution(monkeypatch):
    block = fastseg.accelerate(mednext_block.MedNeXtBlock(4, 4, kernel_size=3, dim="2d"))
    called = []
    monkeypatch.setattr(type(block.norm), "forward", lambda *args: called.append("norm"))
    block(torch.randn(1, 4, 8, 8))
    assert not called


@pytest.mark.parametrize(
    "prepare,why",
    (
        (lambda block: setattr(block, "norm", nn.LayerNorm([4, 3, 3])), "norm: LayerNorm has no fused kernel"),
        (lambda block: setattr(block, "norm", nn.GroupNorm(2, 4)), "norm: 2 groups of 4 channels"),
        (lambda block: block.norm.register_forward_hook(lambda *args: None), "norm has hooks, which would not run"),
        (lambda block: setattr(block, "conv1", nn.Conv2d(4, 4, 3, padding=1)), "conv1: it has not one group"),
        (lambda block: setattr(block, "forward", lambda x: x), "its forward was replaced on the instance"),
    ),
)
def test_what_is_left(prepare, why):
    block = mednext_block.MedNeXtBlock(4, 4, kernel_size=3, dim="2d")
    prepare(block)
    fastseg.accelerate(block)
    assert type(block) is mednext_block.MedNeXtBlock
    assert why in str(fastseg.report(block))


class MedNeXtBlock(nn.Module):
    """As the original has it, with the attribute names that its checkpoints hold."""

    def __init__(self, channels: int, stride: int = 1, grn: bool = False, transposed: bool = False) -> None:
        super().__init__()
        self.do_res, self.grn, self.dim = stride == 1, grn, "3d"
        conv = nn.ConvTranspose3d if transposed else nn.Conv3d
        self.conv1 = conv(channels, channels, 3, stride, 1, groups=channels)
        self.norm = nn.GroupNorm(channels, channels)
        self.conv2 = nn.Conv3d(channels, 2 * channels, 1)
        self.act = nn.GELU()
        self.conv3 = nn.Conv3d(2 * channels, channels, 1)
        if grn:
            self.grn_beta = nn.Parameter(torch.randn(1, 2 * channels, 1, 1, 1))
            self.grn_gamma = nn.Parameter(torch.randn(1, 2 * channels, 1, 1, 1))

    def forward(self, x: torch.Tensor, dummy_tensor: torch.Tensor | None = None) -> torch.Tensor:
        x1 = self.act(self.conv2(self.norm(self.conv1(x))))
        if self.grn:
            gx = torch.norm(x1, p=2, dim=(-3, -2, -1), keepdim=True)
            nx = gx / (gx.mean(dim=1, keepdim=True) + 1e-6)
            x1 = self.grn_gamma * (x1 * nx) + self.grn_beta + x1
        x1 = self.conv3(x1)
        return x + x1 if self.do_res else x1


class MedNeXtDownBlock(MedNeXtBlock):
    def forward(self, x: torch.Tensor, dummy_tensor: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x)


class MedNeXtUpBlock(MedNeXtBlock):
    def forward(self, x: torch.Tensor, dummy_tensor: torch.Tensor | None = None) -> torch.Tensor:
        return F.pad(super().forward(x), (1, 0, 1, 0, 1, 0))


@pytest.fixture
def original(monkeypatch):
    """The original package is on no index: its module, with blocks of its structure."""
    name = "nnunet_mednext.network_architecture.mednextv1.blocks"
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    monkeypatch.delitem(sys.modules, "fastseg.accelerate.mednext_original", raising=False)
    for cls in (MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock):
        monkeypatch.setattr(cls, "__module__", name)
        setattr(sys.modules[name], cls.__name__, cls)
    yield
    sys.modules.pop("fastseg.accelerate.mednext_original", None)


@pytest.mark.parametrize("grn", (False, True))
def test_the_original_blocks(original, grn, check_network: CheckNetwork):
    model = nn.Sequential(
        MedNeXtBlock(4, grn=grn), MedNeXtDownBlock(4, 2, grn), MedNeXtUpBlock(4, 2, grn, transposed=True)
    )
    found = str(check_network(model, torch.randn(2, 4, 8, 8, 8)))
    assert all(f"FusedMedNeXt{kind}Block" in found for kind in ("", "Down", "Up"))


def test_checkpointing_of_the_original(original):
    block = MedNeXtBlock(4)
    fused = fastseg.accelerate(copy.deepcopy(block))
    x, dummy = torch.randn(1, 4, 6, 6, 6), torch.tensor([1.0], requires_grad=True)
    grads = []
    for model in (block, fused):
        model.zero_grad()
        checkpoint(model, x, dummy, use_reentrant=True).square().sum().backward()
        grads.append(model.conv3.weight.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_copies_and_restoring():
    model = network(spatial_dims=2)
    x = torch.randn(1, 1, 16, 16)
    stock, keys = model(x), list(model.state_dict())
    fastseg.accelerate(model)
    assert list(model.state_dict()) == keys
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), model(x))
    fastseg.restore(model)
    assert torch.equal(model(x), stock)
    assert not any(type(m).__module__.startswith("fastseg") for m in model.modules())
