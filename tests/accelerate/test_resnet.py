"""Residual networks with batch norm: torchvision's, SMP's of the same blocks, and MONAI's."""

from __future__ import annotations

import copy
import importlib
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastseg.accelerate import Report, accelerate, report
from fastseg.accelerate.swap import PassThrough
from tests.accelerate.conftest import CheckNetwork, besides_convolutions, trained
from tests.support import torchvision_imports

KINDS = ("torchvision.BasicBlock", "torchvision.Bottleneck", "monai.ResNetBlock", "monai.ResNetBottleneck")
MODULES = {"torchvision": "torchvision.models.resnet", "monai": "monai.networks.nets.resnet"}


def library(name: str) -> Any:
    """The module with the residual networks of torchvision or MONAI."""
    if name == "monai":
        pytest.importorskip(name)
    elif not torchvision_imports():
        pytest.skip("torchvision is not installed")
    return importlib.import_module(MODULES[name])


def counted(summary: Report) -> Counter[str]:
    return Counter(entry.cls for entry in besides_convolutions(summary))


def block(kind: str, stride: int = 1, **arguments: Any) -> nn.Module:
    name, _, cls = kind.partition(".")
    found = getattr(library(name), cls)
    if name == "monai":
        arguments = {"spatial_dims": 2, **arguments}
    down = nn.Sequential(nn.Conv2d(8, 4 * found.expansion, 1, stride), nn.BatchNorm2d(4 * found.expansion))
    made: nn.Module = found(8, 4, stride=stride, downsample=down, **arguments)
    return nn.Sequential(nn.Conv2d(3, 8, 3), made, nn.Conv2d(4 * found.expansion, 2, 1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks(check_network: CheckNetwork, path: str, kind: str, stride: int) -> None:
    summary = check_network(block(kind, stride), torch.randn(3, 3, 9, 8))
    assert counted(summary) == {kind.partition(".")[2]: 1, "BatchNorm2d": 3 + ("Bottle" in kind)}
    assert summary.left == []


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_without_downsampling(kind: str) -> None:
    stock = trained(block(kind))
    stock[1].downsample = None
    stock[1].conv1 = nn.Conv2d(stock[2].in_channels, stock[1].conv1.out_channels, 3, padding=1)
    stock[0] = nn.Conv2d(3, stock[2].in_channels, 3)
    fused, x = accelerate(copy.deepcopy(stock)), torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(fused(x), stock(x), rtol=1e-4, atol=1e-5)


def test_blocks_that_stay() -> None:
    model = block("monai.ResNetBlock", act="prelu")
    accelerate(model)
    assert "act: PReLU has no fused kernel" in {entry.note for entry in report(model).left}
    hooked = block("torchvision.BasicBlock")
    hooked[1].relu.register_forward_hook(lambda module, args, output: None)
    stock = type(hooked[1])
    assert type(accelerate(hooked)[1]) is stock and "bn1: ReLU has hooks" in report(hooked).left[0].note


def test_norms_replaced_afterwards_get_activation_and_residual_back() -> None:
    for kind in KINDS:
        stock = trained(block(kind)).eval()
        model = nn.SyncBatchNorm.convert_sync_batchnorm(accelerate(copy.deepcopy(stock)))
        x = torch.randn(2, 3, 9, 8)
        torch.testing.assert_close(model(x), stock(x), rtol=1e-4, atol=1e-5)


def test_some_norms_replaced_afterwards_are_refused() -> None:
    """The others still apply the block's activation, so that neither forward would be right."""
    model = accelerate(block(KINDS[0]))
    model[1].bn1 = nn.Identity()
    with pytest.raises(RuntimeError, match="some norms of a block were replaced"):
        model(torch.randn(2, 3, 9, 8))


class Decoder(nn.Module):
    """Of SMP's structure, for the last two features: Conv2dReLU is a Sequential of these three layers."""

    def __init__(self, deep: int, shallow: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(deep + shallow, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        up = nn.functional.interpolate(deep, shallow.shape[2:])
        y: Tensor = self.conv(torch.cat([up, shallow], 1))
        return y


def smp_network() -> nn.Module:
    """An encoder as SMP derives it from torchvision's network, and a decoder."""
    resnet = library("torchvision")

    class ResNetEncoder(resnet.ResNet):  # type: ignore[misc, name-defined]
        def forward(self, x: Tensor) -> list[Tensor]:
            first = self.relu(self.bn1(self.conv1(x)))
            return [first, self.layer1(self.maxpool(first))]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = ResNetEncoder(resnet.BasicBlock, [1, 0, 0, 0])
            for name in ("layer2", "layer3", "layer4", "avgpool", "fc"):
                delattr(self.encoder, name)
            self.decoder = Decoder(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.decoder(*self.encoder(x))
            return y

    ResNetEncoder.__module__ = "segmentation_models_pytorch.encoders.resnet"
    ResNetEncoder.__qualname__ = "ResNetEncoder"
    return Network()


@pytest.mark.usefixtures("small_norms_fuse")
def test_smp(check_network: CheckNetwork) -> None:
    summary = check_network(smp_network(), torch.randn(2, 3, 32, 32))
    assert counted(summary) == {"BatchNorm2d": 4, "ReLU": 2, "BasicBlock": 1} and summary.left == []
    assert "encoder.relu" in {entry.path for entry in summary.swapped}


@pytest.mark.usefixtures("small_norms_fuse")
@pytest.mark.parametrize("dims", [2, 3])
def test_monai(check_network: CheckNetwork, dims: int) -> None:
    cls = library("monai").ResNet
    model = cls("basic", (1, 1, 1, 1), (4, 4, 6, 6), spatial_dims=dims, n_input_channels=1, conv1_t_size=3)
    summary = check_network(model, torch.randn(2, 1, *(64 // 2 ** (dims - 1),) * dims))
    assert counted(summary) == {f"BatchNorm{dims}d": 12, "ReLU": 1, "ResNetBlock": 4} and summary.left == []


def test_a_stem_that_stays() -> None:
    model = library("monai").ResNet("basic", (1, 1, 1, 1), (4, 4, 6, 6), spatial_dims=2, act="prelu")
    accelerate(model)
    assert not isinstance(model.act, PassThrough)
    assert ("act", "PReLU has no fused kernel") in {(entry.path, entry.note) for entry in report(model).left}


def test_compiles_in_one_graph() -> None:
    for training in (True, False):
        torch._dynamo.reset()
        stock = trained(smp_network()).train(training)
        fused, x = accelerate(copy.deepcopy(stock)), torch.randn(2, 3, 32, 32)
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), stock(x), rtol=1e-3, atol=1e-4)
