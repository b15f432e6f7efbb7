"""Dense convolutions of encoders and decoders, with and without strides, beside torch's, over the copy of x."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.convolutions import Convolution, Peers, measure_forward, measure_forward_and_backward
from benchmarks.peers import channels_last, same
from fastseg.ops import dense_conv, dense_conv_transpose


def peers(ours: Callable[..., Tensor], torchs: dict[int, Callable[..., Tensor]], **axes: int) -> Peers:
    def fused(x: Tensor, weight: Tensor) -> Tensor:
        return ours(x, weight, **axes)

    def eager(x: Tensor, weight: Tensor) -> Tensor:
        return torchs[x.ndim - 2](x, weight, **axes)

    return {
        "fastseg": (fused, same),
        "fastseg channels-last": (fused, channels_last),
        "eager": (eager, same),
        "eager channels-last": (eager, channels_last),
    }


CONV, TRANSPOSED = {2: F.conv2d, 3: F.conv3d}, {2: F.conv_transpose2d, 3: F.conv_transpose3d}
KINDS = {
    "": peers(dense_conv, CONV, padding=1),
    ", stride 2": peers(dense_conv, CONV, stride=2, padding=1),
    ", transposed, stride 2": peers(dense_conv_transpose, TRANSPOSED, stride=2, padding=1, output_padding=1),
}


def dense(kind: str, outputs: int, *shape: int) -> Convolution:
    rank = len(shape) - 2
    transposed = "transposed" in kind
    channels = (shape[1], outputs) if transposed else (outputs, shape[1])
    gflop = 2e-9 * torch.Size(shape).numel() * outputs * 3**rank / (2**rank if kind == ", stride 2" else 1)
    return Convolution("dense", f"{rank}D to {outputs}{kind}", shape, (*channels, *[3] * rank), gflop)


#: Of nnU-Net's levels at a patch of 64^3, a first convolution and a decoder's among them, of volumes of four
#: modalities, of a small network, and of U-Nets of images; those that halve images; and those that double them, of
#: MONAI's UNet.
PROBLEMS = {
    "": (
        (32, 2, 1, 64, 64, 64),
        (32, 2, 32, 64, 64, 64),
        (32, 2, 64, 64, 64, 64),
        (64, 2, 64, 32, 32, 32),
        (128, 2, 128, 16, 16, 16),
        (256, 2, 256, 8, 8, 8),
        (320, 2, 320, 4, 4, 4),
        (16, 1, 4, 64, 64, 64),
        (16, 1, 16, 64, 64, 64),
        (64, 2, 3, 256, 256),
        (64, 2, 64, 256, 256),
        (128, 2, 128, 128, 128),
        (256, 2, 256, 64, 64),
        (512, 2, 512, 32, 32),
    ),
    ", stride 2": (
        (64, 2, 32, 64, 64, 64),
        (128, 2, 64, 32, 32, 32),
        (256, 2, 128, 16, 16, 16),
        (64, 1, 32, 24, 24, 24),
        (32, 2, 16, 64, 64, 64),
        (128, 2, 64, 256, 256),
        (256, 2, 128, 128, 128),
        (64, 8, 32, 64, 64),
    ),
    ", transposed, stride 2": (
        (32, 2, 64, 32, 32, 32),
        (64, 2, 128, 16, 16, 16),
        (16, 1, 64, 24, 24, 24),
        (2, 1, 32, 48, 48, 48),
        (64, 2, 128, 128, 128),
        (16, 8, 64, 64, 64),
    ),
}
CASES = [(kind, dense(kind, *sizes)) for kind, every in PROBLEMS.items() for sizes in every]


@pytest.mark.parametrize("peer", KINDS[""])
@pytest.mark.parametrize(("kind", "problem"), CASES, ids=str)
def test_forward(benchmark, kind, problem, peer):
    measure_forward(benchmark, problem, peer, KINDS[kind])


@pytest.mark.parametrize("peer", KINDS[""])
@pytest.mark.parametrize(("kind", "problem"), CASES, ids=str)
def test_forward_and_backward(benchmark, kind, problem, peer):
    measure_forward_and_backward(benchmark, problem, peer, KINDS[kind])
