"""ASPP blocks inside other people's models."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastseg
from tests.accelerate import smp_stand_in
from tests.accelerate.conftest import CheckNetwork


@pytest.fixture(scope="module", autouse=True)
def smp() -> Iterator[None]:
    with smp_stand_in.installed():
        yield


def randomized(model: nn.Module) -> nn.Module:
    """Statistics and parameters of norms as after some training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def smp_aspp(separable: bool) -> nn.Module:
    return randomized(smp_stand_in.ASPP(6, 8, (3, 6, 9), separable))


def simple_aspp(dims: int = 2, **arguments: Any) -> nn.Module:
    aspp = pytest.importorskip("monai.networks.blocks.aspp")
    return randomized(aspp.SimpleASPP(dims, 5, 4, **arguments))


@pytest.mark.parametrize("separable", (False, True))
def test_smp(separable: bool, check_network: CheckNetwork) -> None:
    found = str(check_network(nn.Sequential(smp_aspp(separable)), torch.randn(3, 6, 12, 13)))
    assert "ASPP: FusedASPP, its branches run as one" in found


@pytest.mark.parametrize("dims", (2, 3))
@pytest.mark.parametrize(
    "arguments",
    (
        {},
        {"norm_type": "INSTANCE", "acti_type": "RELU"},
        {"norm_type": None, "acti_type": None, "bias": True},
        {"kernel_sizes": (1, 3, 5), "dilations": (1, 2, 3)},
    ),
)
def test_monai(arguments: dict[str, Any], dims: int, check_network: CheckNetwork) -> None:
    model = simple_aspp(dims, **arguments)
    found = str(check_network(model, torch.randn(2, 5, *((12, 13) if dims == 2 else (6, 7, 8)))))
    assert "SimpleASPP: FusedSimpleASPP" in found and f"PointwiseConv{dims}d" in found


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("separable", (False, True))
def test_running_statistics_are_the_stock_models(separable: bool, training: bool) -> None:
    stock = smp_aspp(separable).train(training)
    fused = fastseg.accelerate(copy.deepcopy(stock))
    for _ in range(2):
        x = torch.randn(2, 6, 10, 11)
        stock(x), fused(x)
    for (name, one), two in zip(stock.named_buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


def hooked(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda module, args, output: None)


def strided(aspp: Any) -> None:
    aspp.convs[1][0].stride = (2, 2)


class Wrapped(nn.Conv2d):
    pass


def wrapped(aspp: Any) -> None:
    aspp.convs[2][0].__class__ = Wrapped


CHANGES = (
    (lambda aspp: hooked(aspp.convs[0][0]), "convs.0: Conv2d has hooks, which would not run"),
    (lambda aspp: hooked(aspp.convs[1][1]), "convs.1: BatchNorm2d has hooks"),
    (lambda aspp: hooked(aspp.convs[4]), "its pooled branch has hooks"),
    (lambda aspp: hooked(aspp.project), "project: the branch has hooks"),
    (strided, "convs.1: only branches with stride 1"),
    (wrapped, "convs.2: Wrapped has no kernel"),
    (lambda aspp: aspp.convs[1].append(nn.Identity()), "convs.1: it is no convolution, batch norm and ReLU"),
    (lambda aspp: setattr(aspp, "forward", aspp.forward), "its forward was replaced on the instance"),
    (lambda aspp: setattr(aspp.convs[1][0], "groups", 2), "convs.1: 2 groups have no kernel"),
)


@pytest.mark.parametrize("change,why", CHANGES, ids=[why for _, why in CHANGES])
def test_smp_blocks_that_stay(change, why) -> None:
    model = smp_aspp(False)
    change(model)
    fastseg.accelerate(model)
    assert type(model) is smp_stand_in.ASPP and why in str(fastseg.report(model))


def test_monai_with_one_spatial_axis_stays() -> None:
    model = fastseg.accelerate(simple_aspp(1))
    assert "convs.0: Conv1d has no kernel" in str(fastseg.report(model))
    assert model(torch.randn(2, 5, 16)).shape == (2, 16, 16)


@pytest.mark.parametrize("index", (0, 3))
def test_hooks_that_come_later_run(index: int) -> None:
    stock = smp_aspp(False).eval()
    fused = fastseg.accelerate(copy.deepcopy(stock))
    seen: list[Tensor] = []
    fused.convs[index][0].register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(1, 6, 9, 10)
    torch.testing.assert_close(fused(x), stock(x))
    assert len(seen) == 1


def test_meta_tensors() -> None:
    data = pytest.importorskip("monai.data")
    stock = simple_aspp().eval()
    x = data.MetaTensor(torch.randn(2, 5, 9, 10))
    got = fastseg.accelerate(copy.deepcopy(stock))(x)
    assert isinstance(got, data.MetaTensor)
    torch.testing.assert_close(got.as_tensor(), stock(x).as_tensor())


@pytest.mark.parametrize("training", (True, False))
def test_compiles_in_one_graph(training: bool) -> None:
    torch._dynamo.reset()
    for stock in (smp_aspp(False), smp_aspp(True), simple_aspp()):
        stock.train(training)
        fused = fastseg.accelerate(copy.deepcopy(stock))
        x = torch.randn(2, 6 if hasattr(stock, "project") else 5, 10, 11)
        torch.manual_seed(4)
        y = torch.compile(fused, fullgraph=True, backend="aot_eager")(x)
        torch.manual_seed(4)
        torch.testing.assert_close(y, stock(x), rtol=1e-4, atol=1e-4)
