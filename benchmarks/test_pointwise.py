"""1x1 convolutions beside torch's, over the copy of x as the floor."""

from __future__ import annotations

import pytest
import torch

from benchmarks.convolutions import Convolution, measure_forward, measure_forward_and_backward
from benchmarks.pointwise_peers import POINTWISE_PEERS, SEPARABLE_IMAGE_PEERS
from benchmarks.test_depthwise import measured


def pointwise(outputs: int, *shape: int) -> Convolution:
    gflop = 2e-9 * torch.Size(shape).numel() * outputs
    return Convolution("pointwise", f"to {outputs}", shape, (outputs, shape[1], *[1] * (len(shape) - 2)), gflop)


#: Of ConvNeXt, EfficientNet and ResNet, of a head and a bottleneck, and of a volume.
PROBLEMS = (
    pointwise(384, 8, 96, 56, 56),
    pointwise(3072, 8, 768, 7, 7),
    pointwise(24, 8, 144, 56, 56),
    pointwise(240, 8, 40, 28, 28),
    pointwise(320, 8, 1152, 7, 7),
    pointwise(16, 2, 64, 64, 64),
    pointwise(512, 2, 2048, 8, 8),
    pointwise(2, 2, 32, 256, 256),
    pointwise(64, 1, 32, 64, 64, 64),
)
#: After a depthwise 3x3 convolution.
SEPARABLE = (pointwise(512, 2, 512, 8, 8), pointwise(128, 8, 64, 56, 56))


@pytest.mark.parametrize("peer", POINTWISE_PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward(benchmark, problem, peer):
    measure_forward(benchmark, problem, peer, POINTWISE_PEERS)


@pytest.mark.parametrize("peer", POINTWISE_PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward_and_backward(benchmark, problem, peer):
    measure_forward_and_backward(benchmark, problem, peer, POINTWISE_PEERS)


@pytest.mark.parametrize("peer", SEPARABLE_IMAGE_PEERS)
@pytest.mark.parametrize("problem", SEPARABLE, ids=str)
def test_separable(benchmark, problem, peer):
    function, layout = SEPARABLE_IMAGE_PEERS[peer]
    x, weight = problem.inputs(layout)
    depthwise = torch.randn((x.shape[1], 1, 3, 3), device=x.device)
    gflop = problem.gflop + 2e-9 * x.numel() * 9
    with torch.no_grad():
        run = lambda: function(x, depthwise, weight)  # noqa: E731
        measured(benchmark, f"separable k3 {problem.case} forward", x, peer, gflop, run, "pointwise")
