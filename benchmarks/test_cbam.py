"""CBAM, squeeze and excitation and scSE beside their peers, over the copy of the tensor as the floor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import BesideCopy
from fastseg.ops import cbam, scse, squeeze_excitation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((4, 64, 256, 256), (8, 512, 16, 16), (1, 32, 64, 64, 64))
RATIO = 16


def dense(x: Tensor, fc1: Tensor, fc2: Tensor, pools: list[Tensor]) -> Tensor:
    logits = [torch.relu(pool.flatten(1) @ fc1.T) @ fc2.T for pool in pools]
    return torch.sigmoid(sum(logits[1:], logits[0])).unflatten(1, (-1, *[1] * (x.ndim - 2)))


def mean_of(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)))


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    function = torch.nn.functional.conv2d if x.ndim == 4 else torch.nn.functional.conv3d
    return function(x, weight, padding=[size // 2 for size in weight.shape[2:]])


def public_cbam(x: Tensor, fc1: Tensor, fc2: Tensor, weight: Tensor) -> Tensor:
    """As public code has it."""
    pool = torch.nn.functional.adaptive_max_pool2d if x.ndim == 4 else torch.nn.functional.adaptive_max_pool3d
    x = x * dense(x, fc1, fc2, [mean_of(x), pool(x, 1)])
    maps = torch.cat((x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0]), 1)
    return x * torch.sigmoid(convolve(maps, weight))


def public_squeeze(x: Tensor, fc1: Tensor, fc2: Tensor) -> Tensor:
    return x * dense(x, fc1, fc2, [mean_of(x)])


def public_scse(x: Tensor, fc1: Tensor, fc2: Tensor, weight: Tensor) -> Tensor:
    return x * dense(x, fc1, fc2, [mean_of(x)]) + x * torch.sigmoid(convolve(x, weight))


def parameters_of(case: str, shape: tuple[int, ...]) -> list[Tensor]:
    channels, ones = shape[1], (1,) * (len(shape) - 2)
    hidden = max(channels // RATIO, 1)
    sizes: list[tuple[int, ...]] = [(hidden, channels), (channels, hidden)]
    if case == "CBAM":
        sizes.append((1, 2, *[7 * one for one in ones]))
    if case == "scSE":
        sizes.append((1, channels, *ones))
    return [0.1 * torch.randn(size, device=DEVICE) for size in sizes]


FUNCTIONS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "CBAM": {"fastseg": cbam, "eager": public_cbam},
    "squeeze and excitation": {"fastseg": squeeze_excitation, "eager": public_squeeze},
    "scSE": {"fastseg": scse, "eager": public_scse},
}
PEERS = tuple(f"{name}{layout}" for layout in ("", ", channels-last") for name in ("fastseg", "eager", "torch.compile"))


def name_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@pytest.fixture(params=SHAPES, ids=name_of)
def shape(request):
    return request.param


def prepared(case: str, peer: str, shape: tuple[int, ...]) -> tuple[Callable[..., Tensor], Tensor, list[Tensor]]:
    name, _, layout = peer.partition(", ")
    torch._dynamo.reset()  # each shape is compiled for itself, as a network of one input size is
    function = FUNCTIONS[case]["fastseg" if name == "fastseg" else "eager"]
    function = torch.compile(function) if name == "torch.compile" else function
    x = torch.randn(shape, device=DEVICE)
    if layout:
        x = x.to(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    return function, x, parameters_of(case, shape)


@pytest.mark.large
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", tuple(FUNCTIONS))
def test_forward(beside_copy: BesideCopy, case, shape, peer):
    function, x, parameters = prepared(case, peer, shape)
    with torch.no_grad():
        beside_copy("cbam", f"{case}, forward", peer, x, lambda: function(x, *parameters))


@pytest.mark.large
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", tuple(FUNCTIONS))
def test_forward_and_backward(beside_copy: BesideCopy, case, shape, peer):
    function, x, parameters = prepared(case, peer, shape)
    inputs = [t.requires_grad_() for t in (x, *parameters)]
    grad = torch.randn_like(x)
    beside_copy(
        "cbam", f"{case}, forward + backward", peer, x, lambda: torch.autograd.grad(function(*inputs), inputs, grad)
    )
