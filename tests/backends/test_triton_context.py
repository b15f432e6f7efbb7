"""Separable ASPP on the Triton kernels against wider arithmetic; in the interpreter, see test_triton_norm.py."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

import fastseg
from fastseg.backends.triton import context, depthwise
from fastseg.ops import context_registered as registered
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.ops.context_cases import Case, halves, magnitudes, run
from tests.support import assert_within_budget, pairwise, poison, rerun

CASES = (
    Case((9, 7), ((4, 3, 1), (3, 3, 2), (2, 1, 1)), batch=1, channels=2),
    Case((8, 10), ((5, 3, 6), (6, 3, 12)), channels=3),
    Case((6, 5), ((3, 3, 2),), channels=2, multiplier=2),
    Case((3, 4, 5), ((4, 3, 1), (2, (1, 3, 3), 2)), batch=1, channels=2),
)


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "THREADS", 32)
    monkeypatch.setattr(depthwise, "PROGRAMS", 4)
    poison(monkeypatch, depthwise, "new_output")
    poison(monkeypatch, context, "new_output")


@runs_kernels
@pytest.mark.parametrize(
    ("case", "layout", "dtype"),
    pairwise(CASES, ("contiguous", "channels_last"), (torch.float32, torch.float64, torch.bfloat16)),
    ids=str,
)
def test_against_wider_arithmetic(case: Case, layout: str, dtype: torch.dtype) -> None:
    inputs = case.inputs(dtype, separable=True)
    exact = run(case.separable_of_torch, [t.double() for t in inputs])
    peer, sizes = run(case.separable_of_torch, inputs), magnitudes(case.separable_of_torch, inputs)
    with fastseg.backend("triton"):
        actual = run(case.separable, [t.to(DEVICE) for t in inputs], layout)
    for i, (one, truth, theirs, size) in enumerate(zip(actual, exact, peer, sizes, strict=True)):
        assert_within_budget(one.cpu(), truth, theirs, f"result {i}", terms=size)


@runs_kernels
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_opcheck_and_branches_without_depthwise_convolution(layout: str) -> None:
    case = CASES[0]
    inputs = [t.to(DEVICE) for t in case.inputs(torch.float64, separable=True)]
    if layout == "channels_last":
        inputs[0] = inputs[0].to(memory_format=torch.channels_last)
    x, *parameters, grad = inputs
    depthwise_weights, pointwise, between, after = halves(parameters, 4)
    flat, first = [1, 1, 2, 2, 1, 1], [depthwise_weights[0], depthwise_weights[1], None]
    biases = [between[0], None, None]
    with fastseg.backend("triton"):
        torch.library.opcheck(registered.separable_op, (x, first, pointwise, biases, after, flat))
        for wanted in ([True] * 5, [True, False, False, False, False], [False, True, False, True, False]):
            torch.library.opcheck(registered.separable_backward_op, (grad, x, first, pointwise, biases, flat, wanted))
        y = registered.separable_op(x, first, pointwise, biases, after, flat)
    with fastseg.backend("reference"):
        expected = fastseg.ops.separable_aspp_conv2d(
            x, first, pointwise, dilations=(1, 2, 1), depthwise_biases=biases, pointwise_biases=after
        )
    torch.testing.assert_close(y, expected)


@runs_kernels
def test_dense_branches_have_no_kernel_here() -> None:
    x, weight, *_ = (t.to(DEVICE) for t in CASES[0].inputs(torch.float32))
    with fastseg.backend("triton"), pytest.raises(fastseg.backends.select.BackendError, match="has no such kernel"):
        fastseg.ops.aspp_conv2d(x, [weight], dilations=[1])
