"""Dense 3x3 convolutions of encoders and decoders beside torch's, over the copy of x as the floor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.convolutions import Convolution, Peers, measure_forward, measure_forward_and_backward
from benchmarks.peers import channels_last, same
from fastseg.ops import aspp_conv2d, aspp_conv3d


def dense(outputs: int, *shape: int) -> Convolution:
    rank = len(shape) - 2
    gflop = 2e-9 * torch.Size(shape).numel() * outputs * 3**rank
    return Convolution("dense", f"{rank}D to {outputs}", shape, (outputs, shape[1], *[3] * rank), gflop)


#: Of nnU-Net's levels at a patch of 64^3, a first convolution and a decoder's among them, of volumes of four
#: modalities, of a small network, and of U-Nets of images.
PROBLEMS = (
    dense(32, 2, 1, 64, 64, 64),
    dense(32, 2, 32, 64, 64, 64),
    dense(32, 2, 64, 64, 64, 64),
    dense(64, 2, 64, 32, 32, 32),
    dense(128, 2, 128, 16, 16, 16),
    dense(256, 2, 256, 8, 8, 8),
    dense(320, 2, 320, 4, 4, 4),
    dense(16, 1, 4, 64, 64, 64),
    dense(16, 1, 16, 64, 64, 64),
    dense(64, 2, 3, 256, 256),
    dense(64, 2, 64, 256, 256),
    dense(128, 2, 128, 128, 128),
    dense(256, 2, 256, 64, 64),
    dense(512, 2, 512, 32, 32),
)


def fused(x: Tensor, weight: Tensor) -> Tensor:
    return (aspp_conv2d if x.ndim == 4 else aspp_conv3d)(x, [weight], dilations=[1])


def eager(x: Tensor, weight: Tensor) -> Tensor:
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, padding=1)


PEERS: Peers = {
    "fastseg": (fused, same),
    "fastseg channels-last": (fused, channels_last),
    "eager": (eager, same),
    "eager channels-last": (eager, channels_last),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward(benchmark, problem, peer):
    measure_forward(benchmark, problem, peer, PEERS)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward_and_backward(benchmark, problem, peer):
    measure_forward_and_backward(benchmark, problem, peer, PEERS)
