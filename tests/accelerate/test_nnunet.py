"""nnU-Net's networks."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("dynamic_network_architectures")

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD, StackedResidualBlocks
from dynamic_network_architectures.initialization.weight_init import init_last_bn_before_add_to_0

from fastseg.accelerate import Report, accelerate, report, restore
from tests.accelerate.conftest import CheckNetwork, besides_convolutions

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}


def layers(dims: int, **changes: Any) -> dict[str, Any]:
    return {
        "conv_op": CONV[dims],
        "conv_bias": True,
        "norm_op": NORM[dims],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        **changes,
    }


def unet(cls: type[nn.Module], dims: int, **changes: Any) -> nn.Module:
    depth = "n_conv_per_stage" if cls is PlainConvUNet else "n_blocks_per_stage"
    model: nn.Module = cls(
        input_channels=2,
        n_stages=3,
        features_per_stage=(4, 6, 8),
        kernel_sizes=3,
        strides=(1, 2, 2),
        num_classes=3,
        n_conv_per_stage_decoder=1,
        **{depth: 2},
        **layers(dims, **changes),
    )
    return model


def image(dims: int) -> Tensor:
    return torch.randn(2, 2, *(8,) * dims)


def counted(summary: Report) -> Counter[str]:
    return Counter(entry.cls for entry in besides_convolutions(summary))


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_plain_unet(check_network: CheckNetwork, dims: int, deep_supervision: bool) -> None:
    summary = check_network(unet(PlainConvUNet, dims, deep_supervision=deep_supervision), image(dims))
    assert counted(summary) == {f"InstanceNorm{dims}d": 8, "LeakyReLU": 8} and summary.left == []


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_residual_encoder_unet(check_network: CheckNetwork, dims: int, deep_supervision: bool) -> None:
    summary = check_network(unet(ResidualEncoderUNet, dims, deep_supervision=deep_supervision), image(dims))
    # One stem, six blocks of two, two projections in skips, two decoder stages; 9 activations stand in a Sequential.
    assert counted(summary) == {
        f"InstanceNorm{dims}d": 17,
        "LeakyReLU": 9,
        "BasicBlockD": 6,
        "ConvDropoutNormReLU": 6,
    }
    assert summary.left == []


def test_residual_decoder(check_network: CheckNetwork) -> None:
    assert check_network(unet(ResidualUNet, 3), image(3)).left == []


def test_bottleneck_blocks(check_network: CheckNetwork) -> None:
    model = unet(ResidualEncoderUNet, 3, block=BottleneckD, bottleneck_channels=4, stem_channels=4)
    summary = check_network(model, image(3))
    assert counted(summary)["BottleneckD"] == 6 and summary.left == []


@pytest.mark.usefixtures("small_norms_fuse")
@pytest.mark.parametrize("cls", [PlainConvUNet, ResidualEncoderUNet])
def test_batch_norm(check_network: CheckNetwork, cls: type[nn.Module]) -> None:
    summary = check_network(unet(cls, 2, norm_op=nn.BatchNorm2d), torch.randn(2, 2, 32, 32))
    assert counted(summary)["BatchNorm2d"] > 0 and summary.left == []


@pytest.mark.parametrize("cls", [PlainConvUNet, ResidualEncoderUNet])
def test_dropout(check_network: CheckNetwork, cls: type[nn.Module]) -> None:
    model = unet(cls, 3, dropout_op=DROPOUT[3], dropout_op_kwargs={"p": 0.3, "inplace": True})
    assert check_network(model, image(3)).left == []


def test_nonlin_first_leaves_the_activation_before_the_norm(check_network: CheckNetwork) -> None:
    summary = check_network(unet(PlainConvUNet, 3, nonlin_first=True), image(3))
    assert {entry.note for entry in besides_convolutions(summary)} == {"InstanceNormAct3d, no activation"}


@pytest.mark.parametrize("block", [BasicBlockD, BottleneckD])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"squeeze_excitation": True}, "squeeze-excitation stands between the norm and the residual"),
        ({"stochastic_depth_p": 0.4}, "stochastic depth stands between the norm and the residual"),
    ],
)
def test_blocks_that_stay(
    check_network: CheckNetwork, block: type[nn.Module], changes: dict[str, Any], reason: str
) -> None:
    model = StackedResidualBlocks(
        2, nn.Conv3d, 2, 4, 3, 2, block=block, bottleneck_channels=3, **{**_without_op(layers(3)), **changes}
    )
    summary = check_network(model, image(3))
    assert {entry.note for entry in summary.left} == {reason}
    assert counted(summary)["InstanceNorm3d"] > 0, "their norms are swapped all the same"


def _without_op(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "conv_op"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonlin": nn.PReLU, "nonlin_kwargs": {}}, "nonlin2: PReLU has no fused kernel"),
        ({"nonlin": None, "nonlin_kwargs": None}, "nonlin2: function has no fused kernel"),
        ({"norm_op": nn.SyncBatchNorm}, "conv2.norm: SyncBatchNorm takes its statistics over all processes"),
        ({"norm_op": None}, "it has no conv2.norm"),
    ],
)
def test_blocks_that_stay_for_norm_or_activation(changes: dict[str, Any], reason: str) -> None:
    block = BasicBlockD(nn.Conv3d, 4, 4, 3, 1, **_without_op(layers(3, **changes)))
    model = nn.Sequential(block)
    accelerate(model)
    assert type(block) is BasicBlockD
    assert ("0", reason) in [(entry.path, entry.note) for entry in report(model).left]


@pytest.mark.parametrize("path", ["conv2", "conv2.all_modules", "conv2.norm", "nonlin2"])
def test_blocks_with_hooks_stay(path: str) -> None:
    block = BasicBlockD(nn.Conv3d, 4, 4, 3, 1, **_without_op(layers(3)))
    block.get_submodule(path).register_forward_hook(lambda module, args, output: None)
    accelerate(block)
    assert type(block) is BasicBlockD and "has hooks" in report(block).left[0].note


def test_subclasses_of_a_block_stay() -> None:
    class MyBlock(BasicBlockD):
        pass

    block = MyBlock(nn.Conv3d, 4, 4, 3, 1, **_without_op(layers(3)))
    accelerate(block)
    assert type(block) is MyBlock


def test_initialisers_find_the_blocks() -> None:
    model = accelerate(unet(ResidualEncoderUNet, 3))
    init_last_bn_before_add_to_0(model)
    model.apply(init_last_bn_before_add_to_0)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlockD)]
    assert blocks and all(block.conv2.norm.weight.eq(0).all() for block in blocks)
    model.initialize(model)


def test_encoder_shared_by_the_decoder_and_deep_supervision_switch() -> None:
    model = accelerate(unet(PlainConvUNet, 3, deep_supervision=True))
    assert model.decoder.encoder is model.encoder
    assert len(model(image(3))) == 2
    model.decoder.deep_supervision = False
    assert isinstance(model(image(3)), Tensor)


def test_compute_conv_feature_map_size_still_works() -> None:
    stock = unet(ResidualEncoderUNet, 3)
    size = stock.compute_conv_feature_map_size((8, 8, 8))
    assert accelerate(copy.deepcopy(stock)).compute_conv_feature_map_size((8, 8, 8)) == size


def test_max_pool_encoder(check_network: CheckNetwork) -> None:
    model = PlainConvEncoder(2, 2, (4, 6), nn.Conv3d, 3, (1, 2), 1, pool="max", **_without_op(layers(3)))
    assert check_network(model, image(3)).left == []


@pytest.mark.parametrize("cls", [PlainConvUNet, ResidualEncoderUNet])
def test_torch_compile_without_graph_breaks(cls: type[nn.Module]) -> None:
    model = unet(cls, 2, deep_supervision=True)
    x = image(2)
    expected = restore(copy.deepcopy(model))(x)
    compiled = torch.compile(accelerate(model), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-3, atol=1e-4)
