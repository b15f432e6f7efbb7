"""cross_scale_aggregate on a GPU: against the reference in float64, and what a launch owes to CUDA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastseg
from fastseg.ops import cross_scale_aggregate, cross_scale_shapes
from tests.support import assert_within_budget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

FORMS = ("full size", "pyramid")
SHAPES = ((1, 1, 1), (1, 1, 700), (7, 700, 1), (2, 9, 37, 53), (64, 375, 450), (31, 500, 2100))


def levels_of(form: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shape) * shape[-1])
    shapes = [level.shape if form == "pyramid" else shape for level in cross_scale_shapes(shape, 4, 3)]
    return [torch.rand(each, generator=generator).to("cuda", dtype) for each in shapes]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_reference(shape, dtype, form):
    costs = levels_of(form, shape, dtype)
    grad = torch.rand_like(costs[0])

    def run(backend: str, compute: torch.dtype) -> list[Tensor]:
        leaves = [cost.to(compute, copy=True).requires_grad_() for cost in costs]
        with fastseg.backend(backend):
            result = cross_scale_aggregate(leaves, min_disparity=3)
            return [result.detach(), *torch.autograd.grad(result, leaves, grad.to(compute))]

    actual, exact, peer = run("triton", dtype), run("reference", torch.float64), run("reference", dtype)
    for each in zip(actual, exact, peer, strict=True):
        assert_within_budget(*each)


@pytest.mark.parametrize("form", FORMS)
def test_runs_of_one_input_give_the_same_bits(form):
    costs = [cost.requires_grad_() for cost in levels_of(form, (64, 375, 450))]
    with fastseg.backend("triton"):
        runs = [torch.autograd.grad(cross_scale_aggregate(costs, min_disparity=3).square().sum(), costs) for _ in "12"]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_numbers_that_are_none_are_found(form):
    costs = levels_of(form, (9, 37, 53))
    costs[2].view(-1)[-1] = float("nan")
    with fastseg.backend("triton"), pytest.raises(ValueError, match=r"costs\[2\] has 1 values"):
        cross_scale_aggregate(costs, min_disparity=3)


@pytest.mark.parametrize("form", FORMS)
def test_another_stream(form):
    costs = levels_of(form, (20, 200, 300))
    expected = cross_scale_aggregate(costs, min_disparity=3)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = cross_scale_aggregate(costs, min_disparity=3)
    stream.synchronize()
    assert torch.equal(expected, other)
