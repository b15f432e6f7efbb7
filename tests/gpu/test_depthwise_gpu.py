"""The depthwise family on a GPU: both kernels with the cases of the CPU, and what a launch owes to CUDA."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fastseg import ops
from tests.ops.depthwise_cases import (
    CASES,
    Case,
    Results,
    extended,
    extended_transposed,
    gradients,
    square,
    torch_conv,
)
from tests.support import assert_within_budget, in_layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
GIB = 2**30
_CONV = {2: ops.depthwise_conv2d, 3: ops.depthwise_conv3d}


def fused(case: Case, inputs: list[Tensor], layout: str) -> Results:
    x, weight, bias, grad = (t.cuda() for t in inputs)
    with torch.device("cuda"):
        leaves = [in_layout(x, layout).detach(), weight, bias]
    for leaf in leaves:
        leaf.requires_grad_()
    return gradients(_CONV[len(case.image)](*leaves, **case.geometry), leaves, grad)


def check(case: Case, dtype: torch.dtype, layout: str) -> None:
    """y and every gradient against wider arithmetic, beside torch's own on the CPU."""
    inputs = case.inputs(dtype)
    ours = fused(case, inputs, layout)
    leaves = [t.clone().requires_grad_() for t in inputs[:3]]
    peer = gradients(torch_conv(case, *leaves), leaves, inputs[3])
    exact, size = extended(case, inputs), extended(case, inputs, magnitude=True)
    for name, actual, truth, theirs, terms in zip(Results._fields, ours, exact, peer, size, strict=True):
        assert actual.dtype == dtype
        assert_within_budget(actual.cpu(), truth, theirs, name, terms=terms.max().item())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_wider_arithmetic(case: Case, layout: str, dtype: torch.dtype, forced: str, poisoned: None) -> None:
    check(case, dtype, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.multiplier == 1], ids=str)
def test_whole_vectors_of_channels(case: Case, dtype: torch.dtype, forced: str, poisoned: None) -> None:
    check(dataclasses.replace(case, channels=24), dtype, "channels_last")


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_transposed(dtype: torch.dtype, layout: str, forced: str, poisoned: None) -> None:
    case = square(3, 12, 3, stride=2, channels=16)
    grad, weight, _, x = case.inputs(dtype)
    bias = torch.randn(16).to(dtype)
    inputs = [x, weight, bias, grad]
    with torch.device("cuda"):
        leaves = [in_layout(x.cuda(), layout).detach(), weight.cuda(), bias.cuda()]
    for leaf in leaves:
        leaf.requires_grad_()
    arguments = {"stride": 2, "padding": 1, "output_padding": 1}
    ours = gradients(ops.depthwise_conv_transpose3d(*leaves, **arguments), leaves, grad.cuda())
    theirs = [t.clone().requires_grad_() for t in inputs[:3]]
    peer = gradients(torch.nn.functional.conv_transpose3d(*theirs, **arguments, groups=16), theirs, grad)
    exact, size = extended_transposed(case, inputs), extended_transposed(case, inputs, magnitude=True)
    for name, actual, truth, their, terms in zip(Results._fields, ours, exact, peer, size, strict=True):
        assert_within_budget(actual.cpu(), truth, their, name, terms=terms.max().item())


@pytest.mark.parametrize("shape", ((2, 16, 40, 33), (1, 8, 20, 17, 40)), ids=str)
@pytest.mark.parametrize("mean", (0.0, 1e4))
def test_statistics(shape: tuple[int, ...], mean: float, forced: str, poisoned: None) -> None:
    rank = len(shape) - 2
    x = (torch.randn(shape) + mean).cuda()
    weight = torch.randn(shape[1], 1, *[3] * rank, device="cuda").softmax(2) if mean == 0 else None
    if weight is None:  # one tap of one: the mean stays, and with it what can cancel
        weight = torch.zeros(shape[1], 1, *[3] * rank, device="cuda")
        weight[(slice(None), 0, *[1] * rank)] = 1
    y = ops.depthwise_instance_norm_act(x, weight, padding=1, activation="relu")
    convolved = _CONV[rank](x, weight, padding=1).double()
    truth = torch.nn.functional.instance_norm(convolved).relu()
    assert (y.double() - truth).abs().max() < 1e-3


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", (square(2, 70, 3, channels=16), square(3, 34, 5, channels=16)), ids=str)
def test_same_bits_every_time(case: Case, layout: str, forced: str) -> None:
    inputs = case.inputs(torch.float32)
    first, second = (fused(case, inputs, layout) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_on_a_side_stream_and_in_a_graph(layout: str, forced: str) -> None:
    case = square(3, 34, 3, channels=16)
    x, weight, bias, grad = (t.cuda() for t in case.inputs(torch.float32))
    with torch.device("cuda"):
        leaves = [in_layout(x, layout).detach().requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]

    def step() -> Results:
        return gradients(ops.depthwise_conv3d(*leaves, **case.geometry), leaves, grad)

    expected = step()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            found = step()
    torch.cuda.current_stream().wait_stream(side)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaves[0].mul_(2)
    graph.replay()
    torch.testing.assert_close(captured.dweight, 2 * expected.dweight)
    assert torch.equal(captured.dx, expected.dx)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_more_than_two_to_the_31_elements(layout: str, forced: str) -> None:
    """The last plane of the last channel, which lies beyond 2^31."""
    shape = (1, 8, 520, 724, 724)
    free, _ = torch.cuda.mem_get_info()
    if free < 20 * GIB:
        pytest.skip(f"needs 20 GiB of free GPU memory, {free / GIB:.0f} GiB are there")
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
    if layout == "channels_last":
        x = torch.empty(shape, dtype=torch.bfloat16, device="cuda", memory_format=torch.channels_last_3d)
    x.normal_(generator=torch.Generator("cuda").manual_seed(0))
    weight = torch.randn(8, 1, 3, 3, 3, dtype=torch.bfloat16, device="cuda")
    y = ops.depthwise_conv3d(x, weight, padding=1)
    end = x[:, -1:, -2:].float().contiguous()
    expected = torch.nn.functional.conv3d(end, weight[-1:].float(), padding=1)[0, 0, -1]
    torch.testing.assert_close(y[0, -1, -1].float(), expected, rtol=2**-7, atol=2**-4)
