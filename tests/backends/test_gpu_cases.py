"""The table that tests on a GPU go over: no op is left out, and each call runs, here on the CPU."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest
import torch

import fastseg
from fastseg import ops
from fastseg.backends import select
from tests.gpu import cuda_kernels
from tests.gpu.cases import CASES, Case, assert_as_exact, outputs, registered_calls, runs, with_gradients
from tests.gpu.cuda_kernels import calls
from tests.support import LAYOUTS

#: Public functions that run the kernel of another one, or none.
OTHERS = {"cross_scale_shapes", "wls_decompose", "wls_solve"}


def test_every_op_has_a_case() -> None:
    """And so every Triton and CUDA C++ candidate."""
    assert set(CASES) == set(select.CANDIDATES)
    functions = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert functions - OTHERS == set(CASES)
    candidates = {
        (op, c.backend) for op, each in select.CANDIDATES.items() for c in each if c.backend in ("triton", "cuda")
    }
    assert candidates <= set(runs()) and {op for op, _ in runs()} == set(CASES)


@pytest.mark.parametrize("op", CASES)
def test_the_call_runs_its_op(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differentiated where it says so, with the numbers of the reference in float64 where they are its own truth."""
    chosen: set[str] = set()
    choose = select.choose
    monkeypatch.setattr(select, "choose", lambda name, *rest: chosen.add(name) or choose(name, *rest))
    case = CASES[op]
    inputs = case.inputs(torch.float32, "cpu")
    actual = with_gradients(case, inputs)
    assert len(actual) == case.grads + len(outputs(case, inputs))
    shared = {"depthwise_separable_conv2d": "depthwise_conv2d", "depthwise_separable_conv3d": "depthwise_conv3d"}
    assert shared.get(op, op) in chosen
    if not case.own_truth:
        with fastseg.backend("reference"):
            exact, peer = (with_gradients(case, [t.to(d) for t in inputs]) for d in (torch.float64, torch.float32))
        assert_as_exact(case, actual, exact, peer)


@pytest.mark.parametrize("op", CASES)
def test_inputs_are_the_same_in_every_layout(op: str) -> None:
    case = CASES[op]
    dense, *others = (case.inputs(torch.bfloat16, "cpu", layout) for layout in LAYOUTS)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(dense, other, strict=True))
        assert any(a.stride() != b.stride() for a, b in zip(dense, other, strict=True))


def test_registered_ops_are_recorded() -> None:
    calls = registered_calls(CASES["instance_norm_act"], CASES["instance_norm_act"].inputs(torch.float32, "cpu"))
    assert [op.name() for op, _, _ in calls] == ["fastseg::instance_norm_act", "fastseg::instance_norm_act_backward"]


def test_large_calls_have_their_item_last() -> None:
    """More than 2^31 elements are for a card; here their shapes without memory, and the same with short sides."""
    for op, case in CASES.items():
        if isinstance(case.large, str):
            continue
        with torch.device("meta"):
            item = [torch.empty(shape) for shape in case.large]
            many = case.many(item)
        assert [t.shape[0] for t in many] == [
            len(t) * (case.items if i in case.batched else 1) for i, t in enumerate(item)
        ]
        disparities = 9 if op == "matching_cost" else 1
        assert disparities * max(t.numel() for t in many) > 2**31, op
        shapes = tuple(tuple(n // 125 if n > 1000 else n for n in shape) for shape in case.large)
        short = replace(case, large=shapes)
        item = short.item(torch.float32, "cpu")
        for found, expected in zip(outputs(case, short.many(item)), outputs(case, item), strict=True):
            torch.testing.assert_close(found[-expected.shape[0] :], expected, rtol=1e-4, atol=1e-5)
    small = Case(outputs, ((1,),), large=((1, 3), (2,)), items=3)
    item = small.item(torch.float32, "cpu")
    many = small.many(item)
    assert torch.equal(many[0][-1:], item[0]) and not many[0][:-1].any() and torch.equal(many[1], item[1])


def test_what_the_sanitizer_runs() -> None:
    """Some of it with the kernels of the CPU; no op is left out that has a CUDA C++ kernel of its own."""
    torch.manual_seed(0)
    names = [(family, name) for family, name, _ in calls()]
    assert len(set(names)) == len(names)
    quick = [call for family, name, call in calls() if family != "norm" or name.startswith("7x9x11")]
    assert all(t.isfinite().all() for call in quick[::7] for t in call("cpu"))
    with_cuda = {op for op, each in select.CANDIDATES.items() if any(c.backend == "cuda" for c in each)}
    source = inspect.getsource(cuda_kernels)
    made_of_it = {"depthwise_separable_conv2d", "depthwise_separable_conv3d", "guided_filter_argmin"}
    named = {op for op in with_cuda if op in source or re.sub(r"\dd$", "{rank}d", op) in source}
    assert with_cuda - made_of_it == named - made_of_it
