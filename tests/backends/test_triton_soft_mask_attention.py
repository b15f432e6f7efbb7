"""The Triton kernels of soft-mask attention against wider arithmetic; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg.backends.triton import soft_mask_attention as attention
from fastseg.ops import soft_mask_attention
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.ops.test_soft_mask_attention import drawn, extended, gradients, torch_ops
from tests.support import DTYPES, LAYOUTS, assert_within_budget, pairwise, poison, rerun


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(params=("one tile", "several tiles"))
def tiles(request, monkeypatch):
    if request.param == "several tiles":
        monkeypatch.setattr(attention, "TILE_BYTES", 512)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    poison(monkeypatch, torch, "empty_like")
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(float("nan")))


def check(inputs: list[Tensor], grad: Tensor) -> None:
    with fastseg.backend("triton"):
        ours = gradients(soft_mask_attention, [t.to(DEVICE) for t in inputs], grad.to(DEVICE))
    peer, exact = gradients(torch_ops, inputs, grad), extended(inputs, grad)
    summands = (grad.double() * inputs[0].double() / 4).square().sum(1).sqrt().max().item()
    for name, a, t, p in zip(("y", "dtrunk", "dmask"), ours, exact, peer, strict=True):
        assert_within_budget(a.cpu(), t, p, name, terms=summands if name == "dmask" else 0.0)


@runs_kernels
@pytest.mark.parametrize(
    ("dtype", "layout", "one", "tiles"),
    pairwise(DTYPES, LAYOUTS, (False, True), ("one tile", "several tiles")),
    indirect=["tiles"],
    ids=str,
)
@pytest.mark.usefixtures("tiles")
def test_dtypes_and_layouts(dtype, layout, one):
    *inputs, grad = drawn((2, 5, 9, 11), one, dtype, layout)
    check(inputs, grad)


@runs_kernels
@pytest.mark.parametrize(
    ("shape", "layout", "one"),
    pairwise(
        ((2, 3, 7), (1, 1, 1), (1, 17, 2, 3), (2, 4, 4, 4, 4), (1, 2, 3, 2, 3, 2)),
        ("contiguous", "channels_last"),
        (False, True),
    ),
    ids=str,
)
def test_shapes(shape, layout, one):
    *inputs, grad = drawn(shape, one, torch.float32, layout)
    check(inputs, grad)


@runs_kernels
@pytest.mark.parametrize("one", (False, True))
def test_single_gradients(one):
    trunk, mask, grad = (t.to(DEVICE) for t in drawn((2, 3, 5, 6), one, torch.float32, "contiguous"))
    both = attention.soft_mask_attention_backward(grad, trunk, mask, True, True)
    assert torch.equal(attention.soft_mask_attention_backward(grad, trunk, mask, True, False)[0], both[0])
    assert torch.equal(attention.soft_mask_attention_backward(grad, trunk, mask, False, True)[1], both[1])


@runs_kernels
def test_extreme_logits():
    mask = torch.tensor([0.0, 90.0, -90.0, 200.0, -200.0, float("inf"), float("-inf")]).reshape(1, 1, -1)
    check([torch.ones_like(mask), mask], torch.ones_like(mask))
