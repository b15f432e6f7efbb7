"""The Triton kernels of the attention gate against wider arithmetic; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg.backends.triton import attention_gate as gate
from fastseg.ops import attention_gate
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.ops.test_attention_gate import NAMES, drawn, extended, run, torch_ops
from tests.support import DTYPES, LAYOUTS, assert_within_budget, pairwise, poison, rerun


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    poison(monkeypatch, torch, "empty_like")
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(float("nan")))


def check(tensors: list[Tensor]) -> None:
    *inputs, grad = tensors
    exact, terms, kink = extended(tensors)
    grad = grad.masked_fill(kink, 0)
    with fastseg.backend("triton"):
        ours = run(attention_gate, [t.to(DEVICE) for t in inputs], grad.to(DEVICE))
    peer = run(torch_ops, inputs, grad)
    for name, a, t, p, size in zip(NAMES, ours, exact, peer, terms, strict=True):
        assert_within_budget(a.cpu(), t, p, name, terms=size)


@runs_kernels
@pytest.mark.parametrize(("dtype", "layout", "grid"), pairwise(DTYPES, LAYOUTS, ((9, 11), (4, 6))), ids=str)
def test_dtypes_and_layouts(dtype, layout, grid):
    check(drawn((2, 5, 6, 7), (9, 11), grid, dtype, layout))


@runs_kernels
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(
    "shape",
    (
        ((1, 1, 1, 1), (1, 1), (1, 1)),
        ((1, 20, 17, 70), (5, 7), (5, 7)),  # more than one block of channels and of features
        ((1, 20, 17, 70), (5, 7), (3, 2)),
        ((2, 4, 6, 5), (6, 7, 9), (3, 3, 5)),
        ((1, 3, 2, 20), (5, 8, 6), (1, 2, 1)),
        ((1, 16, 16, 16), (4, 4, 8), (4, 4, 8)),
        ((1, 3, 4, 5), (5, 4), (7, 9)),  # finer than x
    ),
    ids=str,
)
def test_shapes(shape, layout):
    check(drawn(*shape, torch.float32, layout))


@runs_kernels
def test_same_bits_every_time():
    *inputs, grad = (t.to(DEVICE) for t in drawn((2, 5, 6, 7), (9, 11), (4, 6), torch.float32, "contiguous"))
    first, second = (gate.attention_gate_backward(grad, *inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
