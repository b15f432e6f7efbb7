"""Whole stock networks before and after fastseg.accelerate."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastseg
from benchmarks.conftest import rounds_for
from benchmarks.peers import channels_last

networks = pytest.importorskip("dynamic_network_architectures.architectures.unet")
monai = pytest.importorskip("monai.networks.nets")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PATCH = (1, 1, 64, 128, 128)


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


VARIANTS = {
    "stock": lambda network: network,
    "stock channels-last": stock_channels_last,
    "accelerate": fastseg.accelerate,
    "accelerate channels-last": lambda network: fastseg.accelerate(network, channels_last=True),
}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return plain_conv_unet().to(DEVICE)


@pytest.mark.parametrize("peer", VARIANTS)
def test_inference(benchmark, network, peer):
    model = VARIANTS[peer](copy.deepcopy(network))
    x = torch.randn(PATCH, device=DEVICE)
    if peer == "stock channels-last":
        x = channels_last(x)
    benchmark.group = "PlainConvUNet inference"
    benchmark.extra_info.update(case="inference", shape="x".join(map(str, PATCH)), peer=peer, family="PlainConvUNet")

    def run() -> None:
        model(x)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        benchmark.pedantic(run, rounds=rounds_for(run, 5))


@pytest.mark.parametrize("peer", ("stock", "accelerate", "accelerate channels-last"))
def test_mednext_training_step(benchmark, peer):
    torch.manual_seed(0)
    network = monai.MedNeXtSmall(spatial_dims=3, in_channels=1, out_channels=2, kernel_size=3).to(DEVICE)
    model = VARIANTS[peer](network)
    x = torch.randn((1, 1, 64, 64, 64), device=DEVICE)
    benchmark.group = "MedNeXt-S k3 training step"
    benchmark.extra_info.update(case="training step, small, k3", shape="1x1x64x64x64", peer=peer, family="MedNeXt")
    training_step(benchmark, model, x)


@pytest.mark.parametrize("peer", VARIANTS)
def test_batch_norm_training_step(benchmark, peer):
    torch.manual_seed(0)
    network = monai.BasicUNet(spatial_dims=2, in_channels=3, out_channels=2, norm="batch").to(DEVICE)
    model = VARIANTS[peer](network)
    x = torch.randn((4, 3, 256, 256), device=DEVICE)
    if peer == "stock channels-last":
        x = channels_last(x)
    benchmark.group = "BasicUNet, batch norm, training step"
    benchmark.extra_info.update(case="training step, batch norm", shape="4x3x256x256", peer=peer, family="BasicUNet")
    training_step(benchmark, model, x)


def training_step(benchmark, model, x):
    def run() -> None:
        model.zero_grad(set_to_none=True)
        y = model(x)
        (y if torch.is_tensor(y) else y[0]).square().mean().backward()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(run, rounds=rounds_for(run, 5))
