"""The Triton kernels of cross-scale aggregation against float64; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg import reference
from fastseg.backends.triton import cross_scale
from fastseg.ops import cross_scale_aggregate, cross_scale_shapes
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.support import DTYPES, assert_within_budget, pairwise, rerun

FORMS = ("full size", "pyramid")
#: One element, single lines, odd sizes, volumes of a batch, more rows than a tile has.
SHAPES = ((1, 1, 1), (1, 1, 37), (4, 9, 1), (2, 3, 5, 7), (5, 7, 40))


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that small volumes take several programs, along rows too."""
    monkeypatch.setattr(cross_scale, "BLOCK_BYTES", 256)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    empty_like, new_empty = torch.empty_like, torch.Tensor.new_empty

    def poisoned(out: Tensor) -> Tensor:
        return out.fill_(float("nan")) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poisoned(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poisoned(new_empty(*a, **k)))


def volume(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def levels_of(
    form: str, shape: tuple[int, ...], levels: int = 3, min_disparity: int = 0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    shapes = [level.shape for level in cross_scale_shapes(shape, levels, min_disparity)]
    return [volume(*(shapes[s] if form == "pyramid" else shape), dtype=dtype, seed=s) for s in range(levels)]


def check(costs: list[Tensor], **parameters: float) -> None:
    """The result and the gradients of all levels."""
    grad = volume(*costs[0].shape, dtype=costs[0].dtype, seed=9)

    def run(function, dtype: torch.dtype) -> list[Tensor]:
        leaves = [cost.to(dtype, copy=True).requires_grad_() for cost in costs]
        result = function(leaves, **parameters)
        return [result.detach(), *torch.autograd.grad(result, leaves, grad.to(dtype))]

    with fastseg.backend("triton"):
        actual = run(cross_scale_aggregate, costs[0].dtype)
    exact = run(reference.cross_scale_aggregate, torch.float64)
    peer = run(reference.cross_scale_aggregate, costs[0].dtype)
    for each in zip(actual, exact, peer, strict=True):
        assert each[0].dtype == costs[0].dtype
        assert_within_budget(*each)


@runs_kernels
@pytest.mark.parametrize(("shape", "dtype", "form"), pairwise(SHAPES, DTYPES, FORMS), ids=str)
def test_against_float64(shape, dtype, form):
    check(levels_of(form, shape, dtype=dtype))


@runs_kernels
@pytest.mark.parametrize(("levels", "lambda_", "form"), pairwise((1, 2, 5), (0.0, 1.0, 1e20), FORMS), ids=str)
def test_any_number_of_levels(levels, lambda_, form):
    check(levels_of(form, (3, 4, 9), levels), lambda_=lambda_)


@runs_kernels
@pytest.mark.parametrize("min_disparity", (1, 2, 7, -1, -6))
def test_disparities_of_a_pyramid(min_disparity):
    check(levels_of("pyramid", (7, 3, 4), 4, min_disparity), min_disparity=min_disparity)


@runs_kernels
def test_disparities_that_nobody_looks_up():
    costs = levels_of("pyramid", (2, 5, 6, 7))
    check([costs[0], *(torch.cat((cost, cost), 1) for cost in costs[1:])])


@runs_kernels
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wanted", ((0,), (1,), (0, 2)))
def test_gradients_of_some_levels(wanted, form):
    def gradients(backend: str) -> list[Tensor]:
        costs = levels_of(form, (3, 5, 9), dtype=torch.float64)
        leaves = [costs[s].requires_grad_() for s in wanted]
        with fastseg.backend(backend):
            return list(torch.autograd.grad(cross_scale_aggregate(costs).square().sum(), leaves))

    for a, b in zip(gradients("triton"), gradients("reference"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@runs_kernels
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_numbers_that_are_none_are_found(value, form):
    for s in range(3):
        costs = levels_of(form, (3, 5, 9))
        costs[s].view(-1)[-1] = value
        with fastseg.backend("triton"), pytest.raises(ValueError, match=rf"costs\[{s}\] has 1 values"):
            cross_scale_aggregate(costs)
