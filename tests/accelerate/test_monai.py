"""MONAI's networks."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("monai")

from monai.data import MetaTensor
from monai.networks.blocks import ADN, Convolution
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet

from fastseg.accelerate import Report, accelerate, report
from tests.accelerate.conftest import CheckNetwork, besides_convolutions


def unet(**changes: Any) -> nn.Module:
    return UNet(
        **{"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": (4, 6, 8), "strides": (2, 2), **changes}
    )


def dynunet(**changes: Any) -> nn.Module:
    arguments = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": (4, 6, 8),
    }
    return DynUNet(**{**arguments, **changes})


def counted(summary: Report) -> Counter[str]:
    return Counter(entry.cls for entry in besides_convolutions(summary))


@pytest.mark.parametrize("num_res_units", [0, 2])
def test_unet_with_prelu(check_network: CheckNetwork, num_res_units: int) -> None:
    summary = check_network(unet(num_res_units=num_res_units), torch.randn(2, 1, 16, 16, 16))
    assert set(counted(summary)) == {"InstanceNorm3d"}
    assert {entry.note for entry in summary.left} == {"PReLU has no fused kernel"}


@pytest.mark.parametrize("num_res_units", [0, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_unet_with_relu_and_dropout(check_network: CheckNetwork, dims: int, num_res_units: int) -> None:
    model = unet(spatial_dims=dims, act="RELU", dropout=0.2, num_res_units=num_res_units)
    summary = check_network(model, torch.randn(2, 1, *(16,) * dims))
    assert counted(summary)["ReLU"] == counted(summary)[f"InstanceNorm{dims}d"] > 0 and summary.left == []


@pytest.mark.parametrize(("ordering", "fused"), [("NDA", True), ("NA", True), ("AND", False), ("NAD", True)])
def test_orderings(check_network: CheckNetwork, ordering: str, fused: bool) -> None:
    model = Convolution(3, 2, 4, adn_ordering=ordering, act="RELU", norm="INSTANCE", dropout=0.3)
    summary = check_network(model, torch.randn(2, 2, 6, 6, 6))
    assert ("ReLU" in counted(summary)) == fused


def test_adn_alone(check_network: CheckNetwork) -> None:
    model = nn.Sequential(ADN("NDA", 3, act=("leakyrelu", {"negative_slope": 0.3}), norm="INSTANCE", norm_dim=2))
    assert counted(check_network(model, torch.randn(2, 3, 5, 7))) == {"InstanceNorm2d": 1, "LeakyReLU": 1}


def test_basic_unet(check_network: CheckNetwork) -> None:
    model = BasicUNet(3, 1, 2, features=(4, 4, 6, 6, 8, 4))
    summary = check_network(model, torch.randn(1, 1, 32, 32, 32))
    assert counted(summary) == {"InstanceNorm3d": 18, "LeakyReLU": 18}
    assert {entry.note for entry in summary.swapped if entry.cls == "InstanceNorm3d"} == {
        "InstanceNormAct3d with leaky_relu(0.1)"
    }


@pytest.mark.parametrize("dropout", [None, 0.3])
@pytest.mark.parametrize("res_block", [False, True])
def test_dynunet(check_network: CheckNetwork, res_block: bool, dropout: float | None) -> None:
    model = dynunet(res_block=res_block, dropout=dropout, deep_supervision=True)
    summary = check_network(model, torch.randn(2, 1, 8, 8, 8))
    assert counted(summary)["UnetResBlock" if res_block else "UnetBasicBlock"] >= 3 and summary.left == []


@pytest.mark.usefixtures("small_norms_fuse")
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: unet(spatial_dims=2, act="RELU", norm="batch", num_res_units=1), id="unet"),
        pytest.param(
            lambda: BasicUNet(2, 1, 2, features=(4, 4, 6, 6, 8, 4), norm=("batch", {"momentum": None})), id="basic_unet"
        ),
        pytest.param(lambda: dynunet(spatial_dims=2, norm_name="batch", deep_supervision=True), id="dynunet"),
        pytest.param(lambda: dynunet(spatial_dims=2, norm_name="batch", res_block=True, dropout=0.3), id="dynunet_res"),
    ],
)
def test_networks_with_batch_norm(check_network: CheckNetwork, model: Callable[[], nn.Module]) -> None:
    summary = check_network(model(), torch.randn(2, 1, 32, 32))
    norms = [entry.note for entry in summary.swapped if entry.cls == "BatchNorm2d"]
    assert norms and all("with" in note for note in norms) == ("UnetResBlock" not in counted(summary))
    assert summary.left == []


@pytest.mark.parametrize("block", [UnetBasicBlock, UnetResBlock])
@pytest.mark.parametrize("stride", [1, 2])
def test_blocks(check_network: CheckNetwork, block: type[nn.Module], stride: int) -> None:
    model = block(3, 4, 4, 3, stride, ("group", {"num_groups": 4}), act_name="relu")
    summary = check_network(nn.Sequential(model), torch.randn(2, 4, 8, 8, 8))
    assert counted(summary)[block.__name__] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"act_name": "prelu"}, "lrelu: PReLU has no fused kernel"),
        ({"norm_name": ("group", {"num_groups": 2})}, "norm1: 2 groups of 4 channels: only one channel a group is an "),
    ],
)
def test_blocks_that_stay(check_network: CheckNetwork, changes: dict[str, Any], reason: str) -> None:
    summary = check_network(dynunet(res_block=True, **changes), torch.randn(2, 1, 8, 8, 8))
    assert any(entry.note.startswith(reason) for entry in summary.left)


def test_block_with_a_hook_stays() -> None:
    block = UnetResBlock(3, 4, 4, 3, 1, "instance")
    block.lrelu.register_forward_hook(lambda module, args, output: None)
    accelerate(block)
    assert type(block) is UnetResBlock and report(block).left[0].note.startswith("norm1: LeakyReLU has hooks")


def test_segresnet(check_network: CheckNetwork) -> None:
    model = SegResNet(3, 16, in_channels=1, out_channels=2, blocks_down=(1, 1), blocks_up=(1,))
    summary = check_network(model, torch.randn(1, 1, 8, 8, 8))
    assert besides_convolutions(summary) == []
    assert {entry.note.removeprefix("norm1: ").partition(":")[0] for entry in summary.left} == {
        "8 groups of 16 channels",
        "8 groups of 32 channels",
    }


@pytest.mark.usefixtures("small_norms_fuse")
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_segresnet_with_norms_that_have_a_kernel(check_network: CheckNetwork, norm: str) -> None:
    model = SegResNet(2, 4, in_channels=1, out_channels=2, blocks_down=(1, 2), blocks_up=(1,), norm=norm)
    summary = check_network(model, torch.randn(2, 1, 8, 12))
    assert counted(summary)["ResBlock"] == 4 and counted(summary)["ReLU"] == 1 and summary.left == []


def test_segresnet_with_one_channel_a_group_and_a_large_image() -> None:
    # Its ReLUs run in place on what the norms return.
    stock = SegResNet(3, 8, in_channels=1, out_channels=2, blocks_down=(1, 1), blocks_up=(1,))
    fused = accelerate(copy.deepcopy(stock))
    x = torch.randn(1, 1, 40, 40, 40)
    got = fused(x)
    got.sum().backward()
    torch.testing.assert_close(got, stock(x), rtol=1e-3, atol=1e-4)


def test_meta_tensor_inputs() -> None:
    # What MONAI's loaders hand to a network.
    stock = unet(act="RELU")
    fused = accelerate(copy.deepcopy(stock))
    x = MetaTensor(torch.randn(2, 1, 16, 16, 16))
    got = fused(x)
    got.sum().backward()
    assert isinstance(got, MetaTensor)
    torch.testing.assert_close(got.as_tensor(), stock(x).as_tensor(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("res_block", [False, True])
def test_torch_compile_without_graph_breaks(res_block: bool) -> None:
    stock = dynunet(res_block=res_block)
    x = torch.randn(2, 1, 8, 8, 8)
    compiled = torch.compile(accelerate(copy.deepcopy(stock)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), stock(x), rtol=1e-3, atol=1e-4)
