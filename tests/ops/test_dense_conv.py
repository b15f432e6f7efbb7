"""dense_conv and dense_conv_transpose on CPU: against wider arithmetic, every geometry, layout and dtype, contracts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg.backends import cpu_dense_conv
from fastseg.ops import dense_conv, dense_conv_transpose
from tests.ops.dense_conv_cases import Case
from tests.support import (
    DTYPES,
    LAYOUTS,
    assert_same_bits,
    for_thread_counts,
    in_layout,
    rerun_with_capability,
    run,
)

pytestmark = pytest.mark.usefixtures("nan_poisoned_convolutions")


CONVOLUTIONS = (
    Case(2, 11, 5, (7, 9), (3, 3), (2, 2), (1, 1)),
    Case(1, 33, 17, (5, 6, 11), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    Case(2, 6, 18, (5, 9, 8), (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    Case(2, 20, 3, (12, 9), (7, 5), (3, 2), (3, 0)),
    Case(1, 7, 4, (10, 13), (4, 3), (2, 1), (1, 2), (2, 3)),
    Case(2, 9, 8, (6, 7), (2, 2), (3, 3), (0, 0)),  # between the taps lie pixels that none finds
)
TRANSPOSED = (
    Case(2, 11, 5, (7, 9), (3, 3), (2, 2), (1, 1), output_padding=(1, 1), transposed=True),
    Case(1, 33, 17, (3, 4, 5), (3, 3, 3), (2, 2, 2), (1, 1, 1), output_padding=(1, 0, 1), transposed=True),
    Case(2, 6, 18, (5, 4, 3), (1, 4, 4), (1, 2, 2), (0, 1, 1), transposed=True),
    Case(2, 20, 3, (4, 5), (2, 2), (3, 3), (0, 0), output_padding=(2, 1), transposed=True),
    Case(1, 7, 4, (5, 6), (3, 3), (1, 2), (1, 0), (2, 1), transposed=True),
)
SMALL = (CONVOLUTIONS[0], TRANSPOSED[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CONVOLUTIONS + TRANSPOSED, ids=str)
def test_against_wider_arithmetic(case, dtype, layout):
    case.check(dtype, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(
    "case",
    (
        Case(2, 32, 64, (8, 18, 20), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
        Case(1, 64, 80, (60, 50), (3, 3), (2, 2), (1, 1)),  # several bands of rows
        Case(1, 150, 70, (9, 10), (3, 3), (2, 2), (1, 1)),  # sums in runs of inputs
        Case(2, 4, 16, (10, 12, 14), (3, 3, 3), (2, 2, 2), (1, 1, 1)),  # by panel
        Case(2, 3, 40, (30, 31), (5, 5), (2, 2), (2, 2)),
        Case(1, 70, 130, (20, 21), (3, 3), (2, 2), (1, 1), output_padding=(1, 0), transposed=True),
        Case(1, 16, 2, (9, 10, 11), (3, 3, 3), (2, 2, 2), (1, 1, 1), output_padding=(1, 1, 1), transposed=True),
        Case(1, 3, 24, (40, 41), (4, 4), (2, 2), (1, 1), transposed=True),
        Case(1, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0)),
        Case(1, 2, 3, (3, 1), (3, 3), (2, 2), (1, 1)),
        Case(1, 40, 24, (1, 400), (1, 3), (1, 2), (0, 1)),  # a row longer than a band
    ),
    ids=str,
)
def test_several_blocks(case, layout):
    case.check(torch.float32, layout)


@st.composite
def cases(draw) -> Case:
    rank = draw(st.integers(2, 3))
    axes = [
        draw(st.tuples(*(st.integers(*bounds) for bounds in ((1, 9), (1, 4), (1, 3), (0, 3), (1, 2)))))
        for _ in range(rank)
    ]
    size, kernel, stride, padding, dilation = (tuple(numbers) for numbers in zip(*axes, strict=True))
    transposed = draw(st.booleans())
    if transposed:
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        reach = [d * (k - 1) + e + 1 for d, k, e in zip(dilation, kernel, extra, strict=True)]
        padding = tuple(
            min(p, ((n - 1) * s + r - 1) // 2) for p, n, s, r in zip(padding, size, stride, reach, strict=True)
        )
    else:
        extra = ()
        needed = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        size = tuple(max(n, least) for n, least in zip(size, needed, strict=True))
    channels = st.integers(1, 40)
    return Case(
        draw(st.integers(1, 3)),
        draw(channels),
        draw(channels),
        size,
        kernel,
        stride,
        padding,
        dilation,
        extra,
        transposed,
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(case=cases(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS))
def test_any_geometry(case, dtype, layout):
    case.check(dtype, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("width", (96, 91))
def test_outputs_past_the_caches(width, transposed, layout):
    """Rows with and without aligned ends; as y, and as a gradient of x."""
    size = (768, width // 2) if transposed else (768, width)
    for channels in ((6, 64), (64, 6)):
        case = Case(2, *channels, size, (1, 3), (1, 2), (0, 1), transposed=transposed)
        x, *_, y = case.inputs_of(torch.float32)
        assert max(x.nbytes, y.nbytes) > 16 << 20
        case.check(torch.float32, layout)


def test_same_padding_of_even_kernels():
    """The extra zero stands behind, as in torch."""
    x, weight = torch.randn(2, 5, 7, 8, dtype=torch.float64), torch.randn(6, 5, 2, 4, dtype=torch.float64)
    expected = F.conv2d(x, weight, padding="same", dilation=(1, 3))
    for backend in ("cpu", "reference"):
        with fastseg.backend(backend):
            torch.testing.assert_close(dense_conv(x, weight, padding="same", dilation=(1, 3)), expected)
    torch.testing.assert_close(dense_conv(x, weight, padding="valid"), F.conv2d(x, weight))


def test_gradients_one_after_the_other_are_the_same(monkeypatch):
    """To save memory, those of large channels-last images."""
    numbers = CONVOLUTIONS[0].inputs_of(torch.float32)
    together = run(CONVOLUTIONS[0].ours, numbers, "channels_last")
    monkeypatch.setattr(cpu_dense_conv, "APART_BYTES", 0)
    assert_same_bits((together, run(CONVOLUTIONS[0].ours, numbers, "channels_last")))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_weights_in_channels_last(case, layout):
    """Their gradient lies as they do."""
    x, weight, bias, grad = case.inputs_of(torch.float64)
    weight = in_layout(weight, "channels_last").detach().requires_grad_()
    y = case.ours(in_layout(x, layout), weight, bias)
    torch.testing.assert_close(y, case.torchs(x, weight, bias))
    (dweight,) = torch.autograd.grad(y, weight, grad)
    assert dweight.stride() == weight.stride()
    torch.testing.assert_close(dweight, torch.autograd.grad(case.torchs(x, weight, bias), weight, grad)[0])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_gradients_that_are_not_dense(case, layout):
    """Slices of channels and expanded ones; slices of parameters."""
    x, weight, bias, grad = case.inputs_of(torch.float64)
    leaves = [in_layout(x, layout).detach().requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    wide = in_layout(torch.cat([grad, grad], 1), layout)[:, 1 : 1 + grad.shape[1]]
    for gradient in (wide, torch.ones((), dtype=torch.float64).expand_as(grad), grad[:, :1].expand_as(grad)):
        results = []
        for function in (case.ours, case.torchs):
            y = function(leaves[0], torch.cat([leaves[1], leaves[1]], -1)[..., : case.kernel[-1]], leaves[2])
            results.append([y, *torch.autograd.grad(y, leaves, gradient)])
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("wanted", ((0,), (1,), (2,), (0, 2), (1, 2)))
def test_only_some_gradients(case, wanted):
    numbers = case.inputs_of(torch.float64)
    every = run(case.ours, numbers)[1:]
    leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(numbers[:3])]
    got = torch.autograd.grad(case.ours(*leaves), [leaves[i] for i in wanted], numbers[3])
    assert all(torch.equal(one, every[i]) for one, i in zip(got, wanted, strict=True))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("channels,size", (((20, 30), (25, 25)), ((128, 64), (3, 4))))
def test_same_bits_for_every_number_of_threads(transposed, layout, channels, size):
    case = Case(2, *channels, size, (3, 3), (2, 2), (1, 1), transposed=transposed)
    numbers = case.inputs_of(torch.float32)
    assert_same_bits(for_thread_counts((1, 3, 4), lambda: run(case.ours, numbers, layout)))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
@pytest.mark.parametrize("transposed", (False, True))
def test_opcheck_and_gradcheck(layout, transposed):
    case = Case(2, 3, 4, (3, 4), (3, 2), (2, 1), (1, 0), transposed=transposed)
    x, weight, bias, grad = case.inputs_of(torch.float64)
    x, size, geometry = in_layout(x, layout), list(grad.shape[2:]), ([2, 1], [1, 0], [1, 1])
    grad = in_layout(grad, layout)
    for w in (weight, in_layout(weight, "channels_last")):
        torch.library.opcheck(torch.ops.fastseg.dense_conv.default, (x, w, bias, *geometry, size, transposed))
        for wanted in ([True, True, True], [True, False, False], [False, True, False], [False, False, True]):
            arguments = (grad, x, w, *geometry, transposed, wanted)
            torch.library.opcheck(torch.ops.fastseg.dense_conv_backward.default, arguments)
    assert torch.autograd.gradcheck(case.ours, [t.detach().requires_grad_() for t in (x, weight, bias)])


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_keeps_x_and_the_weight_only(case):
    x, weight, bias, _ = (t.requires_grad_() for t in case.inputs_of(torch.float32))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        case.ours(x, weight, bias)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), weight.data_ptr()}


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_nan_and_infinity_stay_where_they_are(case):
    x, weight, bias, _ = case.inputs_of(torch.float32)
    x[0, 3, 1, 2], x[1, 0, 4, 3] = float("nan"), float("inf")
    actual, expected = case.ours(x, weight, bias), case.torchs(x, weight, bias)
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_second_derivatives(case):
    leaves = [t.requires_grad_() for t in case.inputs_of(torch.float64)[:3]]
    (dx,) = torch.autograd.grad(case.ours(*leaves).square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        dx.sum().backward()
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(lambda x: case.ours(x, *leaves[1:])[:, :1, :2, :2], leaves[:1])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("transposed", (False, True))
def test_compile_without_break_or_recompile(layout, transposed):
    torch._dynamo.reset()
    op = dense_conv_transpose if transposed else dense_conv
    function = torch.compile(lambda x, *p: op(x * 2, *p, stride=2, padding=1).sum(1), fullgraph=True, dynamic=True)
    for size, stance in (((8, 9), "default"), ((10, 12), "fail_on_recompile")):
        case = Case(3, 13, 14, size, (3, 3), (2, 2), (1, 1), transposed=transposed)
        x, weight, bias, grad = case.inputs_of(torch.float32)
        leaves = [t.requires_grad_() for t in (in_layout(x, layout).detach(), weight, bias)]
        with torch.compiler.set_stance(stance):
            y = function(*leaves)
        expected = case.ours(leaves[0] * 2, *leaves[1:]).sum(1)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)
        for a, b in zip(*(torch.autograd.grad(out, leaves, grad[:, 0]) for out in (y, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("transposed", (False, True))
@pytest.mark.parametrize("shape", ((0, 3, 4, 6), (2, 0, 4, 6)))
def test_empty(shape, transposed):
    weight = torch.zeros((shape[1], 6, 3, 3) if transposed else (6, shape[1], 3, 3), requires_grad=True)
    x, bias = torch.zeros(shape, requires_grad=True), torch.ones(6, requires_grad=True)
    y = (dense_conv_transpose if transposed else dense_conv)(x, weight, bias, stride=2, padding=1)
    assert y.shape == (shape[0], 6, *((7, 11) if transposed else (2, 3))) and (y == 1).all()
    y.sum().backward()
    assert x.grad.shape == shape and bias.grad.tolist() == [float(y[:, 0].numel())] * 6
    assert weight.grad.shape == weight.shape and not weight.grad.any()


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_channels_last_stays(case):
    x, weight, *_ = case.inputs_of(torch.float32)
    x = in_layout(x, "channels_last")
    assert "cpu        runs" in fastseg.explain("dense_conv_transpose" if case.transposed else "dense_conv", x)
    assert case.ours(x, weight).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_autocast(case):
    x, weight, bias, _ = case.inputs_of(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert case.ours(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "error,change,message",
    (
        (ValueError, {"x": torch.ones(3, 4, 6)}, r"x has shape \(3, 4, 6\), expected rank 4 or 5"),
        (ValueError, {"weight": torch.ones(5, 3, 2, 2, 2)}, r"weight has shape .*, expected \(O, 3, kH, kW\)"),
        (ValueError, {"weight": torch.ones(5, 2, 2, 2)}, r"weight has shape \(5, 2, 2, 2\), expected \(O, 3, kH, kW\)"),
        (ValueError, {"weight": torch.ones(5, 3, 0, 2)}, r"weight has shape \(5, 3, 0, 2\), expected"),
        (ValueError, {"weight": torch.ones(5, 3, 2, 2, device="meta")}, "weight is on meta, expected x's device cpu"),
        (ValueError, {"bias": torch.ones(3)}, r"bias has shape \(3,\), expected \(5,\)"),
        (ValueError, {"stride": 0}, "stride is 0, expected an integer >= 1 or 2 of them"),
        (ValueError, {"padding": (1, 2, 3)}, r"padding is \(1, 2, 3\), expected an integer >= 0 or 2 of them"),
        (ValueError, {"padding": "same", "stride": 2}, "padding is 'same' with stride 2, expected stride 1"),
        (ValueError, {"padding": "full"}, "padding is 'full', expected integers, 'same' or 'valid'"),
        (ValueError, {"dilation": 9}, r"x of spatial size \(4, 6\) gives an output of size \(-5, -3\)"),
        (TypeError, {"weight": torch.ones(5, 3, 2, 2).double()}, "weight is torch.float64, expected x's dtype"),
        (TypeError, {"bias": torch.ones(5).double()}, "bias is torch.float64, expected x's dtype"),
        (TypeError, {"x": torch.ones(2, 3, 4, 6, dtype=torch.int64)}, "x is torch.int64, expected"),
    ),
)
def test_errors(error, change, message):
    arguments = {"x": torch.ones(2, 3, 4, 6), "weight": torch.ones(5, 3, 2, 2), "bias": torch.ones(5)}
    with pytest.raises(error, match=f"dense_conv: .*{message}"):
        dense_conv(**{**arguments, **change})


@pytest.mark.parametrize(
    "change,message",
    (
        ({"weight": torch.ones(5, 3, 2, 2)}, r"weight has shape \(5, 3, 2, 2\), expected \(3, O, kH, kW\)"),
        ({"bias": torch.ones(3)}, r"bias has shape \(3,\), expected \(5,\)"),
        ({"output_padding": 2}, "output_padding is 2, expected less than stride or dilation"),
        ({"padding": 9}, r"x of spatial size \(4, 6\) gives an output of size .*, expected at least one pixel"),
    ),
)
def test_errors_of_transposed_ones(change, message):
    arguments = {"x": torch.ones(2, 3, 4, 6), "weight": torch.ones(3, 5, 2, 2), "bias": torch.ones(5), "stride": 2}
    with pytest.raises(ValueError, match=f"dense_conv_transpose: .*{message}"):
        dense_conv_transpose(**{**arguments, **change})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    rerun_with_capability(__file__, capability, "wider_arithmetic or several_blocks or past_the_caches")
