"""Up-convolutions of decoders beside torch's transposed convolutions, over the copy of x as the floor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.convolutions import Convolution, Peers, measure_forward, measure_forward_and_backward
from benchmarks.peers import channels_last, same
from fastseg.ops import up_conv


def halving(*shape: int) -> Convolution:
    """From x's channels to half of them, each pixel to a patch of two along each axis."""
    channels, rank = shape[1], len(shape) - 2
    gflop = 1e-9 * torch.Size(shape).numel() * channels * 2**rank
    return Convolution("up_conv", f"{rank}D to {channels // 2}", shape, (channels, channels // 2, *[2] * rank), gflop)


#: Of nnU-Net's decoder at a patch of 64^3, and of U-Nets of images.
PROBLEMS = (
    halving(2, 64, 32, 32, 32),
    halving(2, 128, 16, 16, 16),
    halving(2, 256, 8, 8, 8),
    halving(2, 320, 4, 4, 4),
    halving(2, 64, 128, 128),
    halving(2, 256, 32, 32),
    halving(2, 512, 16, 16),
)


def eager(x: Tensor, weight: Tensor) -> Tensor:
    return (F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d)(x, weight, stride=2)


PEERS: Peers = {
    "fastseg": (up_conv, same),
    "fastseg channels-last": (up_conv, channels_last),
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
