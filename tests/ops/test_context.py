"""The ASPP ops on CPU: every layout and dtype against wider arithmetic, and the contract of the ops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import ops
from fastseg.backends import cpu, cpu_context, cpu_dense_conv
from fastseg.ops import context
from fastseg.ops import context_registered as registered
from tests.ops.context_cases import CASES, Case, halves, magnitudes, run
from tests.support import (
    DTYPES,
    LAYOUTS,
    assert_same_bits,
    assert_within_budget,
    for_thread_counts,
    in_layout,
    pairwise,
    poison,
    rerun_with_capability,
)

KINDS = ("dense", "separable")


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    for module in (cpu, cpu_context, cpu_dense_conv):
        poison(monkeypatch, module, "new_output")
    poison(monkeypatch, cpu_context.memory, "empty")


def check(case: Case, kind: str, dtype: torch.dtype, layout: str = "contiguous", seed: int = 0) -> None:
    inputs = case.inputs(dtype, kind == "separable", seed)
    fused, theirs = getattr(case, kind), getattr(case, f"{kind}_of_torch")
    wide = [t.double() for t in inputs]
    actual, exact, peer = run(fused, inputs, layout), run(theirs, wide), run(theirs, inputs)
    sizes = magnitudes(theirs, inputs)
    for i, (one, truth, other, size) in enumerate(zip(actual, exact, peer, sizes, strict=True)):
        assert one.dtype == dtype and not one.isnan().any()
        assert_within_budget(one, truth, other, f"{kind} result {i}", terms=size)


@pytest.mark.parametrize(
    ("dtype", "layout", "case", "kind"),
    pairwise((torch.float32, torch.float64), ("contiguous", "channels_last"), CASES, KINDS),
    ids=str,
)
def test_against_wider_arithmetic(case, layout, dtype, kind):
    check(case, kind, dtype, layout)


@pytest.mark.parametrize(
    ("case", "dtype", "layout", "kind"), pairwise((CASES[0], CASES[1], CASES[7]), DTYPES, LAYOUTS, KINDS), ids=str
)
def test_layouts_and_dtypes(case, layout, dtype, kind):
    check(case, kind, dtype, layout)


@pytest.mark.parametrize(("case", "dtype"), pairwise(CASES, DTYPES), ids=str)
def test_separable_branches_in_one_kernel(case, dtype, one_kernel):
    check(case, "separable", dtype, "channels_last")


@st.composite
def cases(draw):
    rank = draw(st.integers(2, 3))
    small = st.integers(1, 4)
    branches = draw(
        st.lists(
            st.tuples(st.integers(1, 40), small | st.tuples(*[small] * rank), st.integers(1, 9)), min_size=1, max_size=4
        )
    )
    image = draw(st.tuples(*[st.integers(1, 30 if rank == 2 else 9)] * rank))
    return Case(image, tuple(branches), draw(st.integers(1, 3)), draw(st.integers(1, 40)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    case=cases(),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
)
def test_any_branches(case, kind, dtype, layout, seed):
    check(case, kind, dtype, layout, seed)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_channel_multiplier(layout):
    check(Case((9, 8), ((4, 3, 2), (5, 3, 3)), multiplier=2), "separable", torch.float32, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_a_separable_branch_without_depthwise_convolution(layout):
    case = Case((9, 8), ((4, 1, 1), (5, 3, 3)))
    x, *parameters, grad = case.inputs(torch.float64, separable=True)
    (_, filters), pointwise, (_, between), after = halves(parameters, 4)

    def mixed(function_of_first):
        def run_of(x: Tensor, filters: Tensor, *rest: Tensor) -> Tensor:
            depthwise, biases = function_of_first
            return ops.separable_aspp_conv2d(
                x,
                [depthwise, filters],
                rest[:2],
                dilations=(1, 3),
                depthwise_biases=[biases, between],
                pointwise_biases=rest[2:],
            )

        return run(run_of, [x, filters, *pointwise, *after, grad], layout)

    without, ones = mixed((None, None)), mixed((torch.ones(5, 1, 1, 1).double(), torch.zeros(5).double()))
    for one, two in zip(without, ones, strict=True):
        torch.testing.assert_close(one, two)
    torch.library.opcheck(
        registered.separable_backward_op,
        (grad, x, [None, filters], pointwise, [None, between], [1, 1, 3, 3], [True] * 5),
    )


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_for_every_number_of_threads(kind, layout):
    case = Case((40, 41), ((70, 3, 6), (9, 3, 2), (12, 1, 1)), channels=40)
    inputs = case.inputs(torch.float32, kind == "separable")
    assert_same_bits(for_thread_counts((1, 3, 4), lambda: run(getattr(case, kind), inputs, layout)))


# Taps beside each other and one by one, panels of taps, slices of the image, widths below that of the kernel.
DENSE = (
    Case((11, 13, 20), ((19, 3, 1),), channels=1),
    Case((9, 40, 41), ((33, 3, 1),), 1, 4),
    Case((70, 64), ((66, 3, 1),), channels=14),
    Case((70, 64), ((8, (5, 3), (2, 1)),), channels=15),
    Case((6, 9, 2), ((5, (1, 3, 5), 1),), channels=24),
    Case((9, 1), ((4, 3, 1),), channels=30),
    Case((9, 7), ((4, 3, 1), (40, (3, 1), 1)), channels=3),
    Case((9, 7), ((4, 3, 1), (40, 1, 1)), channels=3),
    Case((12, 20, 19), ((3, 3, (1, 2, 1)),), channels=64),
)


@pytest.mark.parametrize(("case", "dtype", "layout"), pairwise(DENSE, (torch.float32, torch.float64), LAYOUTS), ids=str)
def test_dense(case, dtype, layout):
    check(case, "dense", dtype, layout)


@pytest.mark.parametrize("case", (DENSE[1], DENSE[8]), ids=str)
def test_slices_do_not_depend_on_threads(case):
    inputs = case.inputs(torch.float32)
    assert_same_bits(for_thread_counts((1, 3, 4), lambda: run(case.dense, inputs, "channels_last")))


# Branches by tiles (dense_conv.md) and direct ones beside each other: each kind alone, several, blocks of outputs.
TILED = {
    Case((36, 41), ((20, 3, 1), (17, 1, 1), (70, 3, 5), (16, 3, 2)), channels=24): (True, False, True, True),
    Case((40, 24), ((16, 3, 9), (30, 3, 2), (16, 5, 1)), 1, 70): (False, True, False),
    Case((26, 30), ((16, 3, 1), (20, 3, 3)), 3, 16): (True, True),
    Case((13, 12, 15), ((16, 3, 1), (5, 1, 1), (24, 3, (1, 2, 3))), channels=20): (True, False, True),
    Case((5, 24, 18), ((24, (1, 3, 3), 1), (16, 3, (9, 2, 2))), 1, 20): (True, False),
}


@pytest.mark.parametrize(("case", "taken"), TILED.items(), ids=str)
def test_which_branches_are_taken_by_tiles(case, taken):
    """There an infinity is subtracted from itself, direct products leave it one."""
    x, *parameters, _ = case.inputs(torch.float32)
    x[(0, 0, *(n // 2 for n in case.image))] = float("inf")
    branches = case.dense(x, *parameters).split([outputs for outputs, _, _ in case.branches], 1)
    assert tuple(bool(y.isnan().any()) for y in branches) == taken


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", TILED, ids=str)
def test_branches_by_tiles(case, layout, dtype):
    check(case, "dense", dtype, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_branches_by_tiles_have_the_same_bits_for_every_number_of_threads(layout):
    case, *_ = TILED
    inputs = case.inputs(torch.float32)
    assert_same_bits(for_thread_counts((1, 3, 4), lambda: run(case.dense, inputs, layout)))


@pytest.mark.parametrize("wanted", range(9))
def test_one_gradient_of_branches_by_tiles(wanted):
    case, *_ = TILED
    *inputs, grad = case.inputs(torch.float32)
    leaves = [t.clone().requires_grad_(i == wanted) for i, t in enumerate(inputs)]
    (alone,) = torch.autograd.grad(case.dense(*leaves), leaves[wanted], grad)
    assert torch.equal(alone, run(case.dense, [*inputs, grad])[1 + wanted])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_channels_last_weights(layout):
    case = CASES[1]
    x, *parameters, grad = case.inputs(torch.float32)
    moved = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in parameters]
    for one, two in zip(
        run(case.dense, [x, *parameters, grad], layout), run(case.dense, [x, *moved, grad], layout), strict=True
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_gradients_of_weights_lie_as_these(dtype):
    x, weight, _, grad = Case((6, 5), ((7, 3, 1),), channels=9).inputs(dtype)
    for lying in (weight, weight.to(memory_format=torch.channels_last), weight.transpose(2, 3)):
        torch.library.opcheck(registered.backward_op, (grad, x, [lying], [1, 1], [True] * 3))
        dweight = registered.backward_op(grad, x, [lying], [1, 1], [False, True, False])[1][0]
        moved = dweight.is_contiguous(memory_format=torch.channels_last)
        assert moved == lying.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", ("x", "weights", "biases"))
def test_only_some_gradients(kind, frozen):
    case = CASES[0]
    x, *parameters, grad = case.inputs(torch.float64, kind == "separable")
    every = run(getattr(case, kind), [x, *parameters, grad])[1:]
    is_weight = [t.ndim > 1 for t in parameters]
    wanted = [frozen != "x", *((frozen != "weights") if weight else (frozen != "biases") for weight in is_weight)]
    leaves = [t.clone().requires_grad_(want) for t, want in zip((x, *parameters), wanted, strict=True)]
    chosen = [leaf for leaf in leaves if leaf.requires_grad]
    got = torch.autograd.grad(getattr(case, kind)(*leaves), chosen, grad)
    for one, two in zip(got, (g for g, want in zip(every, wanted, strict=True) if want), strict=True):
        assert torch.equal(one, two)


def test_gradients_one_after_the_other_are_the_same(monkeypatch):
    inputs = CASES[0].inputs(torch.float32, False, 0)
    together = run(CASES[0].dense, inputs, "channels_last")
    monkeypatch.setattr(cpu_dense_conv, "APART_BYTES", 0)
    launches = []
    launch = cpu_dense_conv._launch
    monkeypatch.setattr(cpu_dense_conv, "_launch", lambda *a, **k: (launches.append(a[5] is None), launch(*a, **k)))
    apart = run(CASES[0].dense, inputs, "channels_last")
    assert launches == [True, True, False]  # forward, then backward without and with dx
    assert all(map(torch.equal, apart, together))


@pytest.mark.parametrize("grad", ("expanded", "sliced"))
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_not_dense(kind, grad):
    case = CASES[0]
    x, *parameters, _ = case.inputs(torch.float32, kind == "separable")
    shape = (case.batch, sum(o for o, _, _ in case.branches), *case.image)
    given_ = (
        torch.ones(()).expand(shape) if grad == "expanded" else torch.randn(2, 40, *case.image)[:, 3 : 3 + shape[1]]
    )
    outcomes = []
    for g in (given_, given_.contiguous()):
        leaves = [t.clone().requires_grad_() for t in (x, *parameters)]
        outcomes.append(torch.autograd.grad(getattr(case, kind)(*leaves), leaves, g))
    assert all(torch.equal(one, two) for one, two in zip(*outcomes, strict=True))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
def test_opcheck_and_gradcheck(layout):
    case = CASES[0]
    x, *parameters, grad = case.inputs(torch.float64)
    x, grad = in_layout(x, layout), in_layout(grad, layout)
    (weights, biases), flat = halves(parameters, 2), [1, 1, 2, 2, 1, 1]
    torch.library.opcheck(registered.forward_op, (x, weights, [biases[0], None, biases[2]], flat))
    for wanted in ([True] * 3, [True, False, False], [False, True, False], [False, False, True]):
        torch.library.opcheck(registered.backward_op, (grad, x, weights, flat, wanted))
    leaves = [t.detach()[:1, :, :4, :5] if t is x else t.detach() for t in (x, *parameters)]
    assert torch.autograd.gradcheck(case.dense, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
def test_opcheck_and_gradcheck_of_separable_branches(layout):
    case = CASES[0]
    x, *parameters, grad = case.inputs(torch.float64, separable=True)
    x, grad = in_layout(x, layout), in_layout(grad, layout)
    (depthwise, pointwise, between, after), flat = halves(parameters, 4), [1, 1, 2, 2, 1, 1]
    torch.library.opcheck(registered.separable_op, (x, depthwise, pointwise, [None, *between[1:]], after, flat))
    for wanted in ([True] * 5, [True] + [False] * 4, [False, True, False, False, True]):
        torch.library.opcheck(registered.separable_backward_op, (grad, x, depthwise, pointwise, between, flat, wanted))
    leaves = [t.detach()[:1, :, :4, :5] if t is x else t.detach() for t in (x, *parameters)]
    assert torch.autograd.gradcheck(case.separable, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_once_for_two_shapes(kind):
    torch._dynamo.reset()
    case = CASES[0]
    compiled = torch.compile(getattr(case, kind), fullgraph=True, dynamic=True, backend="aot_eager")
    for image in ((9, 11), (14, 12)):
        x, *parameters, _ = Case(image, case.branches).inputs(torch.float32, kind == "separable")
        leaves = [t.requires_grad_() for t in (x, *parameters)]
        with torch._dynamo.config.patch(error_on_recompile=image != (9, 11)):
            y = compiled(*leaves)
        torch.testing.assert_close(y, getattr(case, kind)(*leaves))
        y.sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_double_backward_is_refused(kind):
    case = CASES[0]
    x, *parameters, _ = case.inputs(torch.float64, kind == "separable")
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(getattr(case, kind)(x, *parameters).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    with fastseg.backend("reference"):
        (gradient,) = torch.autograd.grad(getattr(case, kind)(x, *parameters).square().sum(), x, create_graph=True)
    gradient.sum().backward()


def test_bytes_kept_for_backward():
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    weights = [torch.randn(4, 8, 3, 3, requires_grad=True) for _ in range(3)]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.aspp_conv2d(x, weights, dilations=(1, 2, 3))
    assert sorted(t.numel() for t in kept) == sorted(t.numel() for t in (x, *weights))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_parameters_beside_16_bit_and_autocast(kind):
    case = CASES[0]
    x, *parameters, _ = case.inputs(torch.float32, kind == "separable")
    leaves = [t.clone().requires_grad_() for t in parameters]
    y = getattr(case, kind)(x.bfloat16(), *leaves)
    rounded = getattr(case, kind)(x.bfloat16(), *(t.bfloat16() for t in parameters))
    assert y.dtype == torch.bfloat16 and torch.equal(y, rounded)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(y.sum(), leaves))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(getattr(case, kind)(x, *leaves), rounded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", ({"batch": 0}, {"image": (0, 5)}, {"channels": 0}))
def test_empty(kind, changes):
    case = Case(**{"image": (4, 5), "branches": ((3, 3, 1), (2, 1, 1)), **changes})
    if kind == "separable" and 0 in case.image:
        pytest.skip("depthwise filters need a pixel")
    x, *parameters, grad = case.inputs(torch.float32, kind == "separable")
    leaves = [t.requires_grad_() for t in (x, *parameters)]
    y = getattr(case, kind)(*leaves)
    gradients = torch.autograd.grad(y, leaves, grad)
    biases = torch.cat(parameters[-2:])
    assert y.shape == grad.shape and torch.equal(y, biases.view(1, -1, 1, 1).expand(y.shape))
    torch.testing.assert_close(torch.cat(gradients[-2:]), grad.sum((0, 2, 3)))


def test_as_many_branches_as_there_may_be():
    check(Case((4, 5), ((2, 3, 1),) * context.MOST_BRANCHES, channels=2), "dense", torch.float64)


def test_nan_stays_where_taps_reach():
    x = torch.zeros(1, 2, 9, 9)
    x[0, 1, 4, 4] = float("nan")
    y = ops.aspp_conv2d(x, [torch.ones(1, 2, 3, 3), torch.ones(1, 2, 1, 1)], dilations=(3, 1))
    assert y[0, 0].isnan().nonzero().tolist() == [[i, j] for i in (1, 4, 7) for j in (1, 4, 7)]
    assert y[0, 1].isnan().nonzero().tolist() == [[4, 4]]


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("aspp_conv2d", torch.randn(1, 2, 3, 4))
    assert "cpu        runs" in fastseg.explain("separable_aspp_conv3d", torch.randn(1, 2, 3, 4, 5))


X = torch.randn(2, 3, 4, 5)
W = torch.randn(6, 3, 3, 3)


@pytest.mark.parametrize(
    "error,change,message",
    (
        (ValueError, {"x": torch.randn(3, 4, 5)}, r"x has shape \(3, 4, 5\), expected rank 4"),
        (TypeError, {"x": torch.ones(2, 3, 4, 5, dtype=torch.int32)}, "x is torch.int32, expected float32"),
        (ValueError, {"weights": []}, "weights has 0 branches, expected 1 to 32"),
        (ValueError, {"weights": [W] * 33}, "weights has 33 branches, expected 1 to 32"),
        (ValueError, {"weights": [W, W[:, :2]]}, r"weights\[1\] has shape \(6, 2, 3, 3\), expected \(O, 3, kH, kW\)"),
        (TypeError, {"weights": [W, W.double()]}, r"weights\[1\] is torch.float64, expected x's dtype torch.float32"),
        (ValueError, {"dilations": (1,)}, r"dilations is \(1,\), expected one for each of 2 branches"),
        (ValueError, {"dilations": (1, 0)}, r"dilations\[1\] is 0, expected an integer >= 1"),
        (ValueError, {"biases": [None]}, "biases has 1 entries, expected one for each of 2 branches"),
        (ValueError, {"biases": [None, torch.ones(5)]}, r"biases\[1\] has shape \(5,\), expected \(6,\)"),
    ),
)
def test_errors(error, change, message):
    arguments = {"x": X, "weights": [W, W], "dilations": (1, 2), "biases": None}
    with pytest.raises(error, match=f"aspp_conv2d: .*{message}"):
        ops.aspp_conv2d(**{**arguments, **change})


@pytest.mark.parametrize(
    "error,change,message",
    (
        (ValueError, {"depthwise_weights": []}, "depthwise_weights has 0 branches"),
        (ValueError, {"depthwise_weights": [W[:4, :1]] * 2}, r"depthwise_weights\[0\] has 4 filters, expected a mult"),
        (ValueError, {"pointwise_weights": [W] * 2}, r"pointwise_weights\[0\] has shape .*expected \(O, 3, 1, 1\)"),
        (ValueError, {"pointwise_weights": [W]}, "pointwise_weights has 1 entries"),
        (ValueError, {"pointwise_biases": [torch.ones(2)] * 2}, r"pointwise_biases\[0\] has shape \(2,\)"),
        (TypeError, {"depthwise_biases": [torch.ones(3).double()] * 2}, r"depthwise_biases\[0\] is torch.float64"),
    ),
)
def test_errors_of_separable_branches(error, change, message):
    arguments = {
        "x": X,
        "depthwise_weights": [W[:3, :1]] * 2,
        "pointwise_weights": [torch.randn(4, 3, 1, 1)] * 2,
        "dilations": (1, 2),
    }
    with pytest.raises(error, match=f"separable_aspp_conv2d: .*{message}"):
        ops.separable_aspp_conv2d(**{**arguments, **change})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    rerun_with_capability(
        __file__, capability, "wider_arithmetic or layouts_and_dtypes or threads or test_dense or by_tiles"
    )
