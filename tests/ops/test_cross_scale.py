"""cross_scale_aggregate on CPU: against float64, every dtype and shape, both forms, and the contract of the op."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.backends import cpu_cross_scale as cpu
from fastseg.ops import cross_scale_aggregate, cross_scale_shapes
from fastseg.reference.cross_scale import coupling_weights
from tests.support import (
    DTYPES,
    assert_same_bits,
    assert_within_budget,
    for_thread_counts,
    pairwise,
    poison,
    rerun_with_capability,
)

OP = torch.ops.fastseg.cross_scale_aggregate.default
BACKWARD_OP = torch.ops.fastseg.cross_scale_aggregate_backward.default
FORMS = ("full size", "pyramid")
#: One element, single lines, less than a vector, vectors over several rows, rows of many vectors.
SINGLE = ((1, 1, 1), (1, 1, 7), (5, 7, 1), (2, 2, 2), (1, 1, 300))
SHAPES = (*SINGLE, (7, 5, 3), (6, 33, 65), (3, 4, 5, 37), (2, 9, 14, 600))


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_output")


def volume(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def levels_of(
    form: str, shape: tuple[int, ...], levels: int = 4, min_disparity: int = 0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    shapes = [level.shape for level in cross_scale_shapes(shape, levels, min_disparity)]
    return [volume(*(shapes[s] if form == "pyramid" else shape), dtype=dtype, seed=s) for s in range(levels)]


def in_float64(costs: list[Tensor]) -> list[Tensor]:
    return [cost.double() for cost in costs]


def check(costs: list[Tensor], **parameters: float) -> None:
    actual = cross_scale_aggregate(costs, **parameters)
    assert actual.dtype == costs[0].dtype and actual.shape == costs[0].shape and actual.is_contiguous()
    exact = reference.cross_scale_aggregate(in_float64(costs), **parameters)
    assert_within_budget(actual, exact, reference.cross_scale_aggregate(costs, **parameters))


# ---- the definition --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lambda_", (0.0, 0.3, 7.0))
@pytest.mark.parametrize("levels", (1, 2, 3, 4, 16))
def test_reference_minimises_the_energy(levels, lambda_):
    """Row 0 of the inverse of A, by dense algebra; A is twice the Hessian's half."""
    difference = torch.diff(torch.eye(levels, dtype=torch.float64), dim=0)
    matrix = torch.eye(levels, dtype=torch.float64) + lambda_ * difference.T @ difference
    costs = in_float64(levels_of("full size", (2, 3, 4), levels))
    expected = torch.linalg.solve(matrix, torch.stack(costs).flatten(1))[0].view(2, 3, 4)
    actual = reference.cross_scale_aggregate(costs, lambda_=lambda_)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def test_weights_of_the_paper_and_at_the_limits():
    assert [round(weight, 4) for weight in coupling_weights(4, 0.3)] == [0.8054, 0.1568, 0.0307, 0.0071]
    assert coupling_weights(4, 0.0) == [1, 0, 0, 0]
    assert coupling_weights(4, 1e20) == [0.25] * 4
    for lambda_ in (1e-20, 1e-3, 1.0, 1e8, 1e16):
        assert abs(sum(coupling_weights(16, lambda_)) - 1) < 1e-14


@pytest.mark.parametrize("min_disparity", (0, 1, 2, 7, -1, -6))
def test_reference_looks_up_level_after_level(min_disparity):
    shape = (7, 5, 6)
    pyramid = cross_scale_shapes(shape, 3, min_disparity)
    costs = [volume(*level.shape, dtype=torch.float64, seed=s) for s, level in enumerate(pyramid)]
    weights = coupling_weights(3, 0.3)
    expected = torch.zeros(shape, dtype=torch.float64)
    for d, y, x in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        disparity, row, column = min_disparity + d, y, x
        for weight, cost, level in zip(weights, costs, pyramid, strict=True):
            expected[d, y, x] += weight * cost[disparity - level.min_disparity, row, column]
            disparity, row, column = (disparity + 1) // 2, row // 2, column // 2
    actual = reference.cross_scale_aggregate(costs, min_disparity=min_disparity)
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-14)


def test_shapes_of_a_pyramid():
    levels = cross_scale_shapes((2, 60, 375, 450), 4)
    assert [level.shape for level in levels] == [(2, 60, 375, 450), (2, 31, 188, 225), (2, 16, 94, 113), (2, 9, 47, 57)]
    assert [level.min_disparity for level in cross_scale_shapes((10, 4, 4), 4, -9)] == [-9, -4, -2, -1]
    assert cross_scale_shapes((10, 4, 4), 2, 5)[1] == ((5, 2, 2), 3)  # 5 to 14 are looked up at 3 to 7


# ---- the kernel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "dtype", "form"), pairwise(SHAPES, DTYPES, FORMS), ids=str)
def test_against_float64(shape, dtype, form):
    check(levels_of(form, shape, dtype=dtype))


@pytest.mark.parametrize(
    ("levels", "lambda_", "form"), pairwise((1, 2, 5, 16), (0.0, 1e-3, 1.0, 1e6, 1e20), FORMS), ids=str
)
def test_any_number_of_levels(levels, lambda_, form):
    check(levels_of(form, (5, 11, 23), levels), lambda_=lambda_)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    batch=st.lists(st.integers(1, 3), max_size=1),
    size=st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(1, 80)),
    levels=st.integers(1, 6),
    more=st.integers(0, 2),
    min_disparity=st.integers(-40, 40),
    dtype=st.sampled_from(DTYPES),
    form=st.sampled_from(FORMS),
    lambda_=st.floats(0, 1e3),
)
def test_any_shape(batch, size, levels, more, min_disparity, dtype, form, lambda_):
    costs = levels_of(form, (*batch, *size), levels, min_disparity, dtype)
    if form == "pyramid":
        costs[1:] = [torch.cat((cost, *[cost.narrow(-3, 0, 1)] * more), -3) for cost in costs[1:]]
    check(costs, lambda_=lambda_, min_disparity=min_disparity)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "shape"), ((torch.float32, (17, 501, 503)), (torch.float16, (2, 17, 500, 507))))
def test_large_volumes_go_past_the_caches(dtype, shape, form):
    costs = levels_of(form, shape, 3, dtype=dtype)
    check(costs)
    grad = volume(*shape, dtype=dtype, seed=9)
    for actual, expected in zip(gradients(costs, grad), gradients(costs, grad, exact=True), strict=True):
        bound = 2 * torch.finfo(dtype).eps * expected.abs().max()
        assert (actual.double() - expected).abs().max() <= bound


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "disparities last": lambda t: t.movedim(-3, -1).contiguous().movedim(-1, -3),
    "cropped": lambda t: torch.nn.functional.pad(t, (2, 3, 1, 4), value=float("nan"))[..., 1:-4, 2:-3],
    "more disparities cut off": lambda t: torch.cat((t, t / 0), -3)[..., : t.shape[-3], :, :],
    "expanded": lambda t: t[..., :1, :, :].expand(t.shape),
    "one element off": lambda t: torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, form):
    costs = levels_of(form, (2, 5, 9, 38))
    laid_out = [LAYOUTS[layout](cost) for cost in costs]
    assert torch.equal(
        cross_scale_aggregate(laid_out), cross_scale_aggregate([cost.clone().contiguous() for cost in laid_out])
    )


@pytest.mark.parametrize("form", FORMS)
def test_keeps_constants(form):
    costs = [torch.full_like(cost, 0.1) for cost in levels_of(form, (9, 12, 13))]
    assert torch.equal(cross_scale_aggregate(costs, lambda_=3.0), costs[0])


def test_one_level_is_copied():
    (cost,) = costs = levels_of("full size", (3, 4, 5), 1)
    result = cross_scale_aggregate(costs)
    assert torch.equal(result, cost) and result.data_ptr() != cost.data_ptr()


def test_single_pixels_are_of_full_size():
    """A pyramid could have these shapes too, and would read disparity 1 of each level at disparities 1 and 2."""
    costs = [torch.tensor([0.0, 1.0]).view(2, 1, 1)] * 3
    assert torch.equal(cross_scale_aggregate(costs, lambda_=2.0), costs[0])
    assert not torch.equal(cross_scale_aggregate([*costs[:2], torch.ones(3, 1, 1)]), costs[0])


@pytest.mark.parametrize("form", FORMS)
def test_same_bits_for_every_number_of_threads(form):
    costs = levels_of(form, (2, 11, 60, 71))
    grad = volume(2, 11, 60, 71, seed=9)
    assert_same_bits(for_thread_counts((1, 2, 3, 7), lambda: [cross_scale_aggregate(costs), *gradients(costs, grad)]))


def test_disparities_that_nobody_looks_up():
    costs = levels_of("pyramid", (2, 5, 8, 9), 3)
    more = [costs[0], *(torch.cat((cost, cost / 0), 1) for cost in costs[1:])]
    assert torch.equal(cross_scale_aggregate(more), cross_scale_aggregate(costs))
    grad = volume(2, 5, 8, 9, seed=9)
    for few, many in zip(gradients(costs, grad), gradients(more, grad), strict=True):
        assert torch.equal(many[:, : few.shape[1]], few)
        assert not many[:, few.shape[1] :].any()


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradients(costs: list[Tensor], grad: Tensor, *, exact: bool = False, function=None) -> list[Tensor]:
    function = function or (reference.cross_scale_aggregate if exact else cross_scale_aggregate)
    leaves = [(cost.double() if exact else cost).detach().clone().requires_grad_() for cost in costs]
    return list(torch.autograd.grad(function(leaves), leaves, grad.to(leaves[0].dtype)))


@pytest.mark.parametrize(("shape", "dtype", "form"), pairwise(SHAPES, DTYPES, FORMS), ids=str)
def test_gradient_against_float64(shape, dtype, form):
    costs, grad = levels_of(form, shape, 3, dtype=dtype), volume(*shape, dtype=dtype, seed=9)
    actual, exact = gradients(costs, grad), gradients(costs, grad, exact=True)
    peer = gradients(costs, grad, function=reference.cross_scale_aggregate)
    for level in zip(actual, exact, peer, strict=True):
        assert level[0].dtype == dtype
        assert_within_budget(*level)


@pytest.mark.parametrize("min_disparity", (0, 3, -4))
@pytest.mark.parametrize("form", FORMS)
def test_gradcheck_once_and_twice(form, min_disparity):
    costs = [t.requires_grad_() for t in in_float64(levels_of(form, (2, 3, 3, 4), 3, min_disparity))]

    def function(*levels: Tensor) -> Tensor:
        return cross_scale_aggregate(levels, min_disparity=min_disparity)

    assert torch.autograd.gradcheck(function, costs)
    assert torch.autograd.gradgradcheck(function, costs)
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(function, costs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wanted", ((0,), (1,), (3,), (0, 2)))
def test_gradients_of_some_levels(form, wanted):
    costs, grad = levels_of(form, (4, 9, 21)), volume(4, 9, 21, seed=9).requires_grad_()
    expected = gradients(costs, grad.detach())
    for s in wanted:
        costs[s].requires_grad_()
    leaves = [costs[s] for s in wanted]
    actual = torch.autograd.grad(cross_scale_aggregate(costs), leaves, grad, create_graph=True)
    for s, gradient in zip(wanted, actual, strict=True):
        assert torch.equal(gradient, expected[s])
    (twice,) = torch.autograd.grad(actual, grad, [torch.ones_like(cost) for cost in leaves])
    ones = [torch.full_like(cost, s in wanted) for s, cost in enumerate(costs)]
    torch.testing.assert_close(twice, reference.cross_scale_aggregate(ones))


def test_gradient_that_is_expanded_or_not_finite():
    costs = levels_of("pyramid", (5, 6, 7))
    for a, b in zip(
        gradients(costs, torch.ones(()).expand(5, 6, 7)), gradients(costs, torch.ones(5, 6, 7)), strict=True
    ):
        assert torch.equal(a, b)
    for overflown in gradients(costs, torch.full((5, 6, 7), float("inf"))):  # as loss scaling may give
        assert not overflown.isfinite().any()


@pytest.mark.parametrize("shape", ((2, 3, 4), (2, 2, 3, 4)))
def test_result_may_be_changed_in_place(shape):
    costs = [cost.requires_grad_() for cost in levels_of("full size", shape)]
    cross_scale_aggregate(costs).mul_(2).sum().backward()
    torch.testing.assert_close(costs[1].grad, torch.full(shape, 2 * coupling_weights(4, 0.3)[1]))


# ---- the contract of the op ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ("contiguous", "transposed"))
def test_opcheck(layout, form):
    costs = levels_of(form, (2, 3, 5, 5), 3)
    if layout == "transposed":
        costs = [cost.mT for cost in costs]
    torch.library.opcheck(OP, (costs, 0.3, 0, form == "pyramid"))
    sizes = [size for cost in costs for size in cost.shape]
    torch.library.opcheck(BACKWARD_OP, (costs[0], 0.3, 0, form == "pyramid", sizes, [0, 2]))


@pytest.mark.parametrize("form", FORMS)
def test_compile_without_break_or_recompile(form):
    torch._dynamo.reset()

    def function(*costs: Tensor) -> Tensor:
        return cross_scale_aggregate([costs[0] * 2, *costs[1:]], min_disparity=3) + 1

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for shape, stance in (((26, 84, 140), "default"), ((37, 51, 90), "fail_on_recompile")):
        costs = [cost.requires_grad_() for cost in levels_of(form, shape, 3, 3)]
        with torch.compiler.set_stance(stance):
            result = compiled(*costs)
        expected = function(*costs)
        torch.testing.assert_close(result, expected)
        grad = torch.randn_like(result)
        for a, b in zip(
            torch.autograd.grad(result, costs, grad), torch.autograd.grad(expected, costs, grad), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_explain():
    assert "cpu        runs" in fastseg.explain("cross_scale_aggregate", volume(3, 4, 5))


@pytest.mark.parametrize("form", FORMS)
def test_forced_reference(form):
    costs = levels_of(form, (5, 6, 7))
    with fastseg.backend("reference"):
        assert torch.equal(cross_scale_aggregate(costs), reference.cross_scale_aggregate(costs))


def test_no_volumes():
    costs = [torch.zeros(0, 3, 4, 5, requires_grad=True), torch.zeros(0, 2, 2, 3, requires_grad=True)]
    result = cross_scale_aggregate(costs)
    assert result.shape == (0, 3, 4, 5)
    assert [gradient.shape for gradient in torch.autograd.grad(result.sum(), costs)] == [cost.shape for cost in costs]


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    selected = "float64 or number or shape or large or layouts or constants or gradcheck"
    rerun_with_capability(__file__, capability, selected)
