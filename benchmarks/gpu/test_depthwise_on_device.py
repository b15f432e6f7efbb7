"""3D depthwise convolutions at the size of a network's first level, beside each route that torch has on a card.

For contiguous tensors torch takes a kernel of its own, of one thread for each output; for channels-last ones cuDNN.
cuDNN of contiguous tensors can be called by name, forward alone, and from torch 2.13 on chosen for both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import record
from benchmarks.peers import channels_last, eager_depthwise, fused_depthwise, same, with_autotune
from benchmarks.test_depthwise import Problem, measured
from benchmarks.test_norm import DEVICE

if record.RUN is None:
    pytest.skip("python -m benchmarks.gpu runs these", allow_module_level=True)

SMOKE = record.RUN.smoke
SHAPE = (1, 4, 8, 8, 8) if SMOKE else (2, 32, 128, 128, 128)
NATIVE = "torch's own kernel"
PROBLEMS = [Problem(SHAPE, kernel, dtype=dtype) for kernel in (3, 5, 7) for dtype in (torch.float32, torch.bfloat16)]
Convolution = Callable[[Tensor, Tensor, int, int], Tensor]


def by_name(x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    """cuDNN's, whatever the layout."""
    cudnn = torch.backends.cudnn
    sides, ones = [padding] * 3, [1] * 3
    return torch.ops.aten.cudnn_convolution(
        x, weight, sides, ones, [dilation] * 3, x.shape[1], cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    )


#: name -> (how the function is made, how its inputs are laid out)
PEERS: dict[str, tuple[Callable[[], Convolution], Callable[[Tensor], Tensor]]] = {
    "fastseg": (lambda: fused_depthwise, same),
    "fastseg channels-last": (lambda: fused_depthwise, channels_last),
    NATIVE: (lambda: eager_depthwise, same),
    "eager": (lambda: eager_depthwise, same),
    "eager channels-last": (lambda: eager_depthwise, channels_last),
    **with_autotune(eager_depthwise, same),
}
#: Switches of torch.backends.cudnn that a peer runs under, in both ways.
ROUTES: dict[str, tuple[str, object]] = {NATIVE: ("enabled", False)}
FORWARD_ONLY = "cuDNN"
if DEVICE == "cuda":
    PEERS[FORWARD_ONLY] = (lambda: by_name, same)
    if hasattr(torch.backends.cudnn, "depthwise_kernel"):
        ROUTES["cuDNN, both ways"] = ("depthwise_kernel", "cudnn")
        PEERS["cuDNN, both ways"] = (lambda: eager_depthwise, same)


@contextmanager
def route(peer: str) -> Iterator[None]:
    name, value = ROUTES.get(peer, ("enabled", torch.backends.cudnn.enabled))
    before = getattr(torch.backends.cudnn, name)
    setattr(torch.backends.cudnn, name, value)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, name, before)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward(benchmark: Any, problem: Problem, peer: str) -> None:
    make, layout = PEERS[peer]
    function, x, weight = make(), layout(problem.tensor()), problem.weight()
    case = f"{problem} forward"
    with torch.no_grad(), route(peer):
        measured(
            benchmark, case, x, peer, problem.gflop, lambda: function(x, weight, problem.padding, problem.dilation)
        )


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer != FORWARD_ONLY])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward_and_backward(benchmark: Any, problem: Problem, peer: str) -> None:
    make, layout = PEERS[peer]
    function, x, grad = make(), layout(problem.tensor()).requires_grad_(), layout(problem.tensor())
    weight = problem.weight().requires_grad_()
    case = f"{problem} forward + backward"

    def step() -> object:
        return torch.autograd.grad(function(x, weight, problem.padding, problem.dilation), (x, weight), grad)

    with route(peer):
        measured(benchmark, case, x, peer, 3 * problem.gflop, step)
