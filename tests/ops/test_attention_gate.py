"""attention_gate on CPU: every layout, grid and dtype against wider arithmetic, and the op's contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.backends import cpu
from fastseg.backends import cpu_attention_gate as gate
from fastseg.ops import attention_gate
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

CONV = {4: F.conv2d, 5: F.conv3d}
NAMES = ("y", "dx", "dgating", "dx_weight", "dgating_weight", "dbias", "dpsi_weight", "dpsi_bias")

#: batch, channels of x and gating, features; size of x; size of gating
SHAPES = (
    ((2, 5, 3, 4), (9, 11), (9, 11)),
    ((1, 1, 1, 1), (1, 1), (1, 1)),
    ((1, 33, 17, 19), (17, 19), (17, 19)),  # channels and features that fill no vector
    ((2, 8, 16, 8), (5, 6, 7), (5, 6, 7)),
    ((2, 16, 32, 16), (18, 22), (9, 11)),  # twice as coarse
    ((1, 5, 3, 7), (9, 10), (4, 3)),  # odd factors
    ((2, 4, 6, 5), (6, 7, 9), (3, 3, 5)),
    ((1, 3, 2, 20), (5, 8, 6), (1, 2, 1)),
    ((2, 3, 4, 5), (7, 8), (1, 1)),
    ((1, 3, 4, 5), (5, 4), (7, 9)),  # finer than x
    ((1, 20, 12, 18), (40, 61), (20, 31)),  # several blocks
)


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    for module, name in ((gate, "empty_like"), (gate, "new_empty"), (cpu, "new_output")):
        poison(monkeypatch, module, name)


def torch_ops(x, gating, x_weight, gating_weight, bias, psi_weight, psi_bias):
    """What a user writes today."""
    conv = CONV[x.ndim]
    features = conv(gating, gating_weight)
    if gating.shape[2:] != x.shape[2:]:
        features = F.interpolate(features, x.shape[2:], mode=("bilinear", "trilinear")[x.ndim - 4], align_corners=False)
    return x * torch.sigmoid(conv(F.relu(conv(x, x_weight, bias) + features), psi_weight, psi_bias))


def drawn(sizes, image, grid, dtype: torch.dtype, layout: str, seed: int = 0) -> list[Tensor]:
    """x, gating, the parameters, and a gradient of y."""
    batch, channels, gating, features = sizes
    generator = torch.Generator().manual_seed(seed + sum(sizes))
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    ones = [1] * len(image)
    tensors = [
        in_layout(draw(batch, channels, *image).to(dtype), layout),
        in_layout(draw(batch, gating, *grid).to(dtype), layout),
        draw(features, channels, *ones) / channels**0.5,
        draw(features, gating, *ones) / gating**0.5,
        draw(features),
        draw(1, features, *ones) / features**0.5,
        draw(1),
        in_layout(draw(batch, channels, *image).to(dtype), layout),
    ]
    return [t.to(dtype) for t in tensors]


def neighbours(fine: int, coarse: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two coarse pixels that each fine one lies between, and the weight of the second."""
    at = np.maximum((np.arange(fine, dtype=np.longdouble) + 0.5) * coarse / fine - 0.5, 0)
    low = np.minimum(at.astype(int), coarse - 1)
    return low, np.minimum(low + 1, coarse - 1), at - low


def to_fine(t: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    for axis, (fine, coarse) in enumerate(zip(image, t.shape[2:], strict=True)):
        low, high, weight = neighbours(fine, coarse)
        lines = np.moveaxis(t, axis + 2, -1)
        t = np.moveaxis(lines[..., low] * (1 - weight) + lines[..., high] * weight, -1, axis + 2)
    return t


def to_coarse(t: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """The adjoint of to_fine."""
    for axis, (fine, coarse) in enumerate(zip(t.shape[2:], grid, strict=True)):
        lines = np.moveaxis(t, axis + 2, 0)
        sums = np.zeros((coarse, *lines.shape[1:]), t.dtype)
        for line, low, high, weight in zip(lines, *neighbours(fine, coarse), strict=True):
            sums[low] += (1 - weight) * line
            sums[high] += weight * line
        t = np.moveaxis(sums, 0, axis + 2)
    return t


def extended(tensors: list[Tensor]) -> tuple[list[Tensor], list[float], Tensor]:
    """y and the gradients in NumPy's long double; the size of the numbers that are added up to each of them; and which
    pixels lie so near a kink of relu that rounding decides."""
    x, g, wx, wg, b, psi, psi_bias, grad = (t.double().numpy().astype(np.longdouble) for t in tensors)
    image, batch = x.shape[2:], x.shape[0]

    flat = lambda t: t.reshape(batch, t.shape[1], -1)  # noqa: E731
    wx, wg, psi = (t.reshape(t.shape[:2]) for t in (wx, wg, psi))
    on_grid = np.tensordot(wg, g, (1, 1)).swapaxes(0, 1)
    z = np.einsum("fc,ncp->nfp", wx, flat(x)) + flat(to_fine(on_grid, image)) + b[:, None]
    h = np.maximum(z, 0)
    logit = np.einsum("f,nfp->np", psi[0], h) + psi_bias
    e = np.exp(-np.abs(logit))
    s, slope = np.where(logit < 0, e, 1) / (1 + e), e / (1 + e) ** 2
    kink = np.abs(z).min(1) < 1e-5 * np.abs(z).max()
    gx = flat(grad) * flat(x) * ~kink[:, None]
    kept = flat(grad) * ~kink[:, None]

    def gradients(dlogit, wx, wg, psi, g, x, kept, h, square=lambda t: t) -> list[np.ndarray]:
        dz = np.where(z > 0, psi[0][:, None] * dlogit[:, None], 0)
        dgrid = to_coarse(dz.reshape(batch, -1, *image), g.shape[2:])
        return [
            kept * s[:, None] + np.einsum("fc,nfp->ncp", wx, dz),
            np.tensordot(wg, dgrid, (0, 1)).swapaxes(0, 1),
            np.einsum("nfp,ncp->fc", square(dz), square(flat(x))),
            np.einsum("nfp,ncp->fc", square(flat(dgrid)), square(flat(g))),
            square(dz).sum((0, 2)),
            np.einsum("np,nfp->f", square(dlogit), square(h))[None],
            square(dlogit).sum(keepdims=True)[0],
        ]

    exact = [flat(x) * s[:, None], *gradients(slope * gx.sum(1), wx, wg, psi, g, x, kept, h)]
    # Sums over pixels: each summand is rounded once, and independent roundings add up in quadrature.
    sizes = gradients(slope * np.abs(gx).sum(1), *map(np.abs, (wx, wg, psi, g, x, kept, h)), square=np.square)
    terms = [np.abs(x).max(), *(t.max() for t in sizes[:2]), *(np.sqrt(t.max()) for t in sizes[2:])]
    shapes = [t.shape for t in (tensors[0], *tensors[:-1])]
    results = [torch.from_numpy(t.astype(np.float64)).reshape(shape) for t, shape in zip(exact, shapes, strict=True)]
    return results, [float(t) for t in terms], torch.from_numpy(kink).reshape(batch, 1, *image)


def run(function, tensors: list[Tensor | None], grad: Tensor) -> list[Tensor]:
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], grad.to(y.dtype))]


def check(tensors: list[Tensor]) -> None:
    *inputs, grad = tensors
    exact, terms, kink = extended(tensors)
    grad = grad.masked_fill(kink, 0)
    ours, peer = run(attention_gate, inputs, grad), run(torch_ops, inputs, grad)
    assert ours[0].dtype == inputs[0].dtype
    for name, a, t, p, size in zip(NAMES, ours, exact, peer, terms, strict=True):
        assert_within_budget(a, t, p, name, terms=size)


@pytest.mark.parametrize(("shape", "dtype", "layout"), pairwise(SHAPES, DTYPES, LAYOUTS), ids=str)
def test_forward_and_backward_match_wider_arithmetic(shape, dtype, layout):
    check(drawn(*shape, dtype, layout))


@pytest.mark.parametrize("grid", ((9, 11), (5, 6)))
@pytest.mark.parametrize("layouts", (("contiguous", "channels_last"), ("channels_last", "contiguous")))
def test_x_and_gating_in_different_layouts(layouts, grid):
    x, gating, *parameters, grad = drawn((2, 5, 6, 7), (9, 11), grid, torch.float32, layouts[0])
    check([x, in_layout(gating, layouts[1]), *parameters, in_layout(grad, layouts[1])])


@pytest.mark.parametrize("grid", ((300, 295), (150, 148)))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_outputs_past_the_caches(layout, grid):
    check(drawn((1, 48, 16, 9), (300, 295), grid, torch.float32, layout))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 2), *[st.integers(1, 40)] * 3),
    image=st.lists(st.integers(1, 12), min_size=2, max_size=3).map(tuple),
    coarse=st.lists(st.integers(1, 12), min_size=3, max_size=3),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
)
def test_random_shapes(sizes, image, coarse, dtype, layout):
    check(drawn(sizes, image, tuple(min(a, b) for a, b in zip(image, coarse, strict=False)), dtype, layout))


@pytest.mark.parametrize("grid", ((9, 11), (4, 5)))
def test_sixteen_bit_with_float32_parameters(grid):
    x, gating, *parameters, grad = drawn((2, 5, 6, 7), (9, 11), grid, torch.float32, "contiguous")
    half = [t.bfloat16().requires_grad_() for t in (x, gating)]
    leaves = [t.requires_grad_() for t in parameters]
    y = attention_gate(*half, *leaves)
    got = torch.autograd.grad(y, [*half, *leaves], grad.bfloat16())
    assert [t.dtype for t in got] == [torch.bfloat16] * 2 + [torch.float32] * 5
    exact = run(reference.attention_gate, [t.detach().double() for t in (*half, *leaves)], grad.bfloat16().double())
    for a, t in zip((y, *got), exact, strict=True):
        torch.testing.assert_close(a.double(), t, rtol=1e-2, atol=1e-2 * t.abs().max().item())


@pytest.mark.parametrize("grid", ((9, 11), (4, 5)))
def test_without_biases(grid):
    x, gating, x_weight, gating_weight, _, psi, _, grad = drawn(
        (2, 5, 6, 7), (9, 11), grid, torch.float64, "contiguous"
    )
    inputs = [x, gating, x_weight, gating_weight, None, psi, None]
    for a, t in zip(run(attention_gate, inputs, grad), run(torch_ops, inputs, grad), strict=True):
        torch.testing.assert_close(a, t)


@pytest.mark.parametrize("grid", ((9, 11), (4, 5)))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_nan_and_infinity(layout, grid):
    x, gating, *parameters, _ = drawn((1, 5, 6, 7), (9, 11), grid, torch.float32, layout)
    x[0, 1, 3, 4], x[0, 2, 5, 6], gating[0, 0, 0, 0] = float("nan"), float("inf"), float("nan")
    y, plain = attention_gate(x, gating, *parameters), torch_ops(x, gating, *parameters)
    torch.testing.assert_close(y, plain, equal_nan=True)
    assert y.isnan().any(1).sum() >= 2


def test_memory_format_is_kept():
    tensors = drawn((2, 5, 6, 7), (6, 7, 8), (3, 4, 4), torch.float32, "channels_last")
    y, dx, dgating, *_ = run(attention_gate, tensors[:-1], tensors[-1])
    assert all(t.is_contiguous(memory_format=torch.channels_last_3d) for t in (y, dx, dgating))


def test_expanded_gradient():
    *inputs, grad = drawn((2, 3, 4, 5), (9, 10), (9, 10), torch.float32, "contiguous")
    full = torch.full_like(grad, 0.7)
    for a, b in zip(
        run(attention_gate, inputs, full), run(attention_gate, inputs, torch.tensor(0.7).expand_as(full)), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)], ids=str)
def test_empty(shape):
    x = torch.zeros(shape, requires_grad=True)
    inputs = drawn((1, 3, 2, 5), (4, 4), (2, 2), torch.float32, "contiguous")[2:-1]
    leaves = [t.requires_grad_() for t in inputs]
    y = attention_gate(x, torch.zeros(shape[0], 2, 2, 2), *leaves)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape and all((t.grad == 0).all() for t in leaves)


@pytest.mark.parametrize("grid", ((70, 90), (35, 45)))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_deterministic_and_independent_of_threads(layout, grid):
    *inputs, grad = drawn((2, 20, 12, 10), (70, 90), grid, torch.float32, layout)
    assert_same_bits(for_thread_counts((1, 2, 3, 4, 4), lambda: run(attention_gate, inputs, grad)))


def test_keeps_its_arguments_only():
    saved: list[Tensor] = []
    *inputs, _ = drawn((2, 3, 4, 5), (9, 10), (9, 10), torch.float32, "contiguous")
    leaves = [t.requires_grad_() for t in inputs]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        attention_gate(*leaves)
    assert [t.data_ptr() for t in saved] == [t.data_ptr() for t in inputs]


@pytest.mark.parametrize("grid", ((4, 5), (2, 2)))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_and_gradcheck(layout, grid):
    *inputs, grad = drawn((2, 3, 2, 4), (4, 5), grid, torch.float64, layout)
    torch.library.opcheck(torch.ops.fastseg.attention_gate.default, tuple(inputs))
    torch.library.opcheck(torch.ops.fastseg.attention_gate_backward.default, (grad, *inputs))
    assert torch.autograd.gradcheck(attention_gate, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_compile_without_break_or_recompile(layout):
    torch._dynamo.reset()
    function = torch.compile(lambda x, g, *p: attention_gate(x * 2, g, *p).sum(1), fullgraph=True, dynamic=True)
    for image, grid, stance in (((8, 9), (4, 5), "default"), ((10, 12), (6, 7), "fail_on_recompile")):
        *inputs, grad = drawn((2, 13, 14, 15), image, grid, torch.float32, layout)
        leaves = [t.requires_grad_() for t in inputs]
        with torch.compiler.set_stance(stance):
            y = function(*leaves)
        expected = attention_gate(inputs[0] * 2, *inputs[1:]).sum(1)
        torch.testing.assert_close(y, expected)
        for a, b in zip(*(torch.autograd.grad(out, leaves, grad[:, 0]) for out in (y, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def test_double_backward_is_refused():
    *inputs, _ = drawn((1, 2, 2, 2), (2, 3), (1, 2), torch.float64, "contiguous")
    leaves = [t.requires_grad_() for t in inputs]
    (grad,) = torch.autograd.grad(attention_gate(*leaves).square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(attention_gate, leaves)


def test_autocast_keeps_sixteen_bit(capsys):
    *inputs, _ = drawn((1, 3, 2, 5), (6, 6), (3, 3), torch.float32, "contiguous")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.nn.Conv2d(3, 3, 1)(inputs[0])
        assert attention_gate(x, *inputs[1:]).dtype == torch.bfloat16
    assert "cpu        runs" in fastseg.explain("attention_gate", x)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"x has shape \(2, 3, 4\), expected rank 4 or 5", {"x": torch.randn(2, 3, 4)}),
        (TypeError, r"x is torch.int64, expected float32", {"x": torch.ones(2, 3, 4, 5, dtype=torch.int64)}),
        (ValueError, r"gating has shape \(2, 2, 4\), expected rank 4", {"gating": torch.randn(2, 2, 4)}),
        (ValueError, r"gating has shape \(1, 2, 4, 5\), expected x's batch of 2", {"gating": torch.randn(1, 2, 4, 5)}),
        (ValueError, r"gating has shape \(2, 2, 0, 5\), expected .* at least one", {"gating": torch.randn(2, 2, 0, 5)}),
        (
            ValueError,
            r"x_weight has shape \(6, 2, 1, 1\), expected \(F, 3, 1, 1\)",
            {"x_weight": torch.randn(6, 2, 1, 1)},
        ),
        (
            ValueError,
            r"gating_weight has shape \(5, 2, 1, 1\), expected \(6, 2, 1, 1\)",
            {"gating_weight": torch.randn(5, 2, 1, 1)},
        ),
        (ValueError, r"psi_weight has shape \(6, 1, 1, 1\), expected \(1, 6", {"psi_weight": torch.randn(6, 1, 1, 1)}),
        (ValueError, r"bias has shape \(5,\), expected \(6,\)", {"bias": torch.randn(5)}),
        (ValueError, r"psi_bias has shape \(2,\), expected \(1,\)", {"psi_bias": torch.randn(2)}),
        (TypeError, r"psi_weight is torch.int64", {"psi_weight": torch.ones(1, 6, 1, 1, dtype=torch.int64)}),
        (ValueError, r"x_weight is on meta", {"x_weight": torch.ones(6, 3, 1, 1, device="meta")}),
        (ValueError, r"gating is on meta, expected x's device cpu", {"gating": torch.ones(2, 2, 4, 5, device="meta")}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_errors_name_the_argument(error, message, arguments):
    good = {
        "x": torch.randn(2, 3, 4, 5),
        "gating": torch.randn(2, 2, 4, 5),
        "x_weight": torch.randn(6, 3, 1, 1),
        "gating_weight": torch.randn(6, 2, 1, 1),
        "bias": None,
        "psi_weight": torch.randn(1, 6, 1, 1),
        "psi_bias": None,
    }
    with pytest.raises(error, match=f"attention_gate: {message}"):
        attention_gate(**{**good, **arguments})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "wider_arithmetic or caches or infinity")
