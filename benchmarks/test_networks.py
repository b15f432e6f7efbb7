"""Whole stock networks before and after fastseg.accelerate."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import fastseg
from benchmarks.conftest import BesideOurs, rounds_for, synchronized
from benchmarks.peers import channels_last

networks = pytest.importorskip("dynamic_network_architectures.architectures.unet")
monai = pytest.importorskip("monai.networks.nets")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PATCH = (1, 1, 64, 128, 128)
#: Channels of the levels of an AttentionUnet: a small one and a large one.
WIDTHS = {"16 to 256": (16, 32, 64, 128, 256), "64 to 512": (64, 128, 256, 512)}


def plain_conv_unet() -> nn.Module:
    """nnU-Net's 3d_fullres network for one modality and three classes."""
    torch.manual_seed(0)
    return networks.PlainConvUNet(
        input_channels=1,
        n_stages=6,
        features_per_stage=(32, 64, 128, 256, 320, 320),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, 2),
        n_conv_per_stage=2,
        num_classes=3,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    ).eval()


def stock_channels_last(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            parameter.data = channels_last(parameter.data)
    return network


OURS = "accelerate"
VARIANTS = {
    "stock": lambda network: network,
    "stock channels-last": stock_channels_last,
    OURS: fastseg.accelerate,
    "accelerate channels-last": lambda network: fastseg.accelerate(network, channels_last=True),
}


@pytest.mark.parametrize("peer", VARIANTS)
def test_inference(benchmark, beside_ours, peer):
    run_of = inference(plain_conv_unet().to(DEVICE), PATCH)
    measure(benchmark, beside_ours, "PlainConvUNet", "inference", PATCH, peer, run_of)


@pytest.mark.parametrize("peer", VARIANTS)
def test_training_step(benchmark, beside_ours, peer):
    shape = (2, 1, 64, 64, 64)
    step_of = training_step(plain_conv_unet().to(DEVICE).train(), shape)
    measure(benchmark, beside_ours, "PlainConvUNet", "training step", shape, peer, step_of)


@pytest.mark.parametrize("peer", VARIANTS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_attention_unet_inference(benchmark, beside_ours, widths, peer):
    torch.manual_seed(0)
    channels, shape = WIDTHS[widths], (1, 1, 256, 256)
    network = monai.AttentionUnet(2, 1, 2, channels, (2,) * (len(channels) - 1)).eval().to(DEVICE)
    case = f"inference, {widths} channels"
    measure(benchmark, beside_ours, "AttentionUnet", case, shape, peer, inference(network, shape))


@pytest.mark.parametrize("peer", ("stock", "accelerate", "accelerate channels-last"))
def test_mednext_training_step(benchmark, beside_ours, peer):
    torch.manual_seed(0)
    network = monai.MedNeXtSmall(spatial_dims=3, in_channels=1, out_channels=2, kernel_size=3).to(DEVICE)
    shape = (1, 1, 64, 64, 64)
    step_of = training_step(network, shape)
    measure(benchmark, beside_ours, "MedNeXt", "training step, small, k3", shape, peer, step_of)


@pytest.mark.parametrize("peer", VARIANTS)
def test_batch_norm_training_step(benchmark, beside_ours, peer):
    torch.manual_seed(0)
    network = monai.BasicUNet(spatial_dims=2, in_channels=3, out_channels=2, norm="batch").to(DEVICE)
    shape = (4, 3, 256, 256)
    step_of = training_step(network, shape)
    measure(benchmark, beside_ours, "BasicUNet", "training step, batch norm", shape, peer, step_of)


@pytest.mark.parametrize("peer", VARIANTS)
def test_residual_unet_training_step(benchmark, beside_ours, peer):
    """MONAI's UNet: strided convolutions on the way down, transposed ones on the way up."""
    torch.manual_seed(0)
    channels, shape = (16, 32, 64, 128, 256), (1, 1, 96, 96, 96)
    network = monai.UNet(3, 1, 2, channels, (2, 2, 2, 2), num_res_units=2, act="relu").to(DEVICE)
    case = "training step, two residual units, 16 to 256 channels"
    measure(benchmark, beside_ours, "UNet", case, shape, peer, training_step(network, shape))


def laid_out(x: torch.Tensor, peer: str) -> torch.Tensor:
    return channels_last(x) if peer == "stock channels-last" else x


def inference(network: nn.Module, shape: tuple[int, ...]) -> Callable[[str], Callable[[], object]]:
    def run_of(peer: str) -> Callable[[], object]:
        model = VARIANTS[peer](copy.deepcopy(network))
        x = laid_out(torch.randn(shape, device=DEVICE), peer)
        return torch.inference_mode()(lambda: model(x))

    return run_of


def training_step(network: nn.Module, shape: tuple[int, ...]) -> Callable[[str], Callable[[], None]]:
    def step_of(peer: str) -> Callable[[], None]:
        model = VARIANTS[peer](copy.deepcopy(network))
        x = laid_out(torch.randn(shape, device=DEVICE), peer)

        def step() -> None:
            model.zero_grad(set_to_none=True)
            y = model(x)
            (y if torch.is_tensor(y) else y[0]).square().mean().backward()

        return step

    return step_of


def measure(
    benchmark,
    beside_ours: BesideOurs,
    family: str,
    case: str,
    shape: tuple[int, ...],
    peer: str,
    prepare: Callable[[str], Callable[[], object]],
) -> None:
    run = synchronized(prepare(peer))
    benchmark.group = f"{family} {case}"
    benchmark.extra_info.update(case=case, shape="x".join(map(str, shape)), peer=peer, family=family)
    rounds = rounds_for(run, 5)
    if peer == OURS:
        benchmark.pedantic(run, rounds=rounds)
    else:
        beside_ours(run, lambda: prepare(OURS), rounds)
