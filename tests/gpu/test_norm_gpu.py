"""instance_norm_act on a card: both GPU backends against float64, streams, graphs, determinism, large tensors."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

import fastseg
from fastseg import reference
from fastseg.ops import instance_norm_act
from tests.support import DTYPES, assert_within_budget, in_layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

# Rows of every variant: registers, one block, a cluster, streamed; and odd sizes.
SHAPES = ((2, 3, 7), (1, 5, 8, 8, 8), (2, 3, 17, 19, 23), (1, 4, 64, 64, 64), (1, 2, 96, 96, 96), (1, 2, 128, 128, 128))


@pytest.fixture(params=("triton", "cuda"), autouse=True)
def forced(request):
    with fastseg.backend(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_forward_and_backward_match_float64(forced, shape, dtype, layout):
    if forced == "cuda" and layout == "channels_last":
        pytest.skip("the CUDA C++ kernel reads rows")
    for activation, with_residual in itertools.product(("none", "relu", "leaky_relu"), (False, True)):
        torch.manual_seed(0)
        x, residual, grad = (in_layout(torch.randn(shape).to(dtype), layout).cuda() for _ in range(3))
        parameters = [torch.randn(shape[1], device="cuda", dtype=torch.promote_types(dtype, torch.float32))] * 2
        inputs = [x, *parameters] + ([residual] if with_residual else [])
        results = {}
        z = reference.instance_norm_act(
            x.double(),
            *(p.double() for p in parameters),
            residual=residual.double() if with_residual else None,
            activation="none",
        )
        grad = grad.masked_fill(z.abs() < 1e-5, 0)  # on the kink both sides are right
        for name, cast in (("ours", None), ("exact", torch.float64), ("peer", dtype)):
            leaves = [(t if cast is None else t.to(cast)).detach().requires_grad_() for t in inputs]
            r = leaves[3] if with_residual else None
            if name == "peer":
                y = F.instance_norm(leaves[0], weight=leaves[1], bias=leaves[2])
                y = y if r is None else y + r
                y = {"none": lambda t: t, "relu": F.relu, "leaky_relu": F.leaky_relu}[activation](y)
            else:
                function = instance_norm_act if name == "ours" else reference.instance_norm_act
                y = function(*leaves[:3], residual=r, activation=activation)
            results[name] = [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]
        for index, (ours, exact, peer) in enumerate(zip(*results.values(), strict=True)):
            summands = grad.double() if index in (2, 3) else None
            terms = 4 * summands.square().sum().sqrt().item() if summands is not None else exact.abs().max().item()
            assert_within_budget(ours.to(dtype), exact, peer, f"{activation} {with_residual} {index}", terms=terms)


def test_side_streams():
    x = torch.randn(2, 8, 64, 64, 64, device="cuda")
    expected = instance_norm_act(x)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    outputs = []
    for stream in streams:
        with torch.cuda.stream(stream):
            outputs.append(instance_norm_act(x))
    torch.cuda.synchronize()
    assert all(torch.equal(y, expected) for y in outputs)


def test_graph_capture():
    x = torch.randn(2, 8, 32, 32, 32, device="cuda")
    instance_norm_act(x)  # compiled before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = instance_norm_act(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, instance_norm_act(x))


def test_equal_to_the_bit_twice():
    x = torch.randn(2, 8, 65, 64, 63, device="cuda", requires_grad=True)
    grad = torch.randn_like(x)
    runs = [(y := instance_norm_act(x), *torch.autograd.grad(y, x, grad)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_more_than_two_to_the_31_elements():
    x = torch.randn(1, 4, 600, 1024, 1024, device="cuda", dtype=torch.bfloat16)
    assert x.numel() > 2**31
    y = instance_norm_act(x, activation="none")
    last = x[0, -1].double()
    exact = (last[-1] - last.mean()) / (last.var(correction=0) + 1e-5).sqrt()
    assert (y[0, -1, -1].double() - exact).abs().max() < 2**-6


def test_opcheck_and_compile():
    x = torch.randn(2, 3, 8, 8, 8, device="cuda")
    torch.library.opcheck(torch.ops.fastseg.instance_norm_act.default, (x, None, None, None, "leaky_relu", 0.01, 1e-5))
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(instance_norm_act, fullgraph=True)(x), instance_norm_act(x))
