"""up_conv on CPU: against wider arithmetic, every layout and dtype, and the contract of the op."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg.backends import cpu_up_conv
from fastseg.ops import up_conv
from tests.support import (
    DTYPES,
    LAYOUTS,
    assert_same_bits,
    assert_within_budget,
    for_thread_counts,
    in_layout,
    poison,
    rerun_with_capability,
    run,
)


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu_up_conv, "new_output")
    poison(monkeypatch, cpu_up_conv, "new_empty")


def torchs(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    op = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
    return op(x, weight, bias, stride=tuple(weight.shape[2:]))


def inputs_of(
    batch: int, inputs: int, outputs: int, size: tuple[int, ...], kernel: tuple[int, ...], dtype: torch.dtype
) -> list[Tensor]:
    """x, weight, bias and the gradient of y."""
    generator = torch.Generator().manual_seed(inputs)
    y = (batch, outputs, *(n * k for n, k in zip(size, kernel, strict=True)))
    shapes = ((batch, inputs, *size), (inputs, outputs, *kernel), (outputs,), y)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def check(batch, inputs, outputs, size, kernel, dtype, layout) -> None:
    numbers = inputs_of(batch, inputs, outputs, size, kernel, dtype)
    # torch's of 16 bit has NaN in some gradients of a single channel: rounded from float32 they are as good as can be.
    wide = [t.float() for t in numbers] if dtype.itemsize == 2 else numbers
    ours, theirs = run(up_conv, numbers, layout), [t.to(dtype) for t in run(torchs, wide)]
    exact, sizes = run(torchs, [t.double() for t in numbers]), run(torchs, [t.double().abs() for t in numbers])
    for name, actual, truth, peer, terms in zip(
        ("y", "dx", "dweight", "dbias"), ours, exact, theirs, sizes, strict=True
    ):
        assert_within_budget(actual, truth, peer, name, terms=terms.max().item())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "batch,inputs,outputs,size,kernel",
    (
        (2, 11, 5, (7, 9), (2, 2)),
        (1, 33, 17, (5, 6, 11), (1, 2, 2)),
        (3, 8, 32, (4, 5, 6), (2, 2, 2)),
        (2, 20, 3, (3, 2), (4, 4)),
        (2, 6, 18, (5, 3), (3, 1)),
    ),
)
def test_against_wider_arithmetic(batch, inputs, outputs, size, kernel, dtype, layout):
    check(batch, inputs, outputs, size, kernel, dtype, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(
    "batch,inputs,outputs,size,kernel",
    (
        (1, 64, 32, (9, 10, 32), (2, 2, 2)),
        (2, 48, 16, (24, 40), (2, 2)),
        (1, 600, 70, (5, 7), (2, 2)),  # sums in runs of inputs
        (4, 320, 256, (4, 4, 4), (2, 2, 2)),  # few pixels: threads have columns of their own
        (1, 40, 3, (14, 14), (16, 16)),
        (1, 1, 1, (1, 1), (1, 1)),
        (2, 1, 1, (3, 4), (2, 2)),
        (2, 7, 1, (1, 1), (5, 3)),
        (1, 9, 4, (1, 130), (1, 2)),  # a row longer than what is transposed together
    ),
)
def test_several_blocks(batch, inputs, outputs, size, kernel, layout):
    check(batch, inputs, outputs, size, kernel, torch.float32, layout)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    axes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=2, max_size=3),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
)
def test_any_shape(batch, inputs, outputs, axes, dtype, layout):
    check(batch, inputs, outputs, *(tuple(numbers) for numbers in zip(*axes, strict=True)), dtype, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("width", (96, 91))
def test_outputs_past_the_caches(layout, width):
    """Rows with and without aligned ends; the gradient is read as it lies."""
    check(2, 20, 32, (384, width), (2, 2), torch.float32, layout)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_gradients_past_the_caches(dtype):
    """Those of x, channels-last."""
    check(2, 32, 8, (272, 512), (2, 1), dtype, "channels_last")


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
def test_gradients_in_rows_where_they_lie(layout, monkeypatch):
    monkeypatch.setattr(cpu_up_conv, "COPIED_BYTES", 0)
    check(2, 20, 17, (5, 6, 7), (2, 2, 2), torch.float32, layout)
    check(2, 130, 24, (9, 40), (2, 2), torch.bfloat16, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_weights_in_channels_last(layout):
    """Their gradient lies as they do."""
    x, weight, bias, grad = inputs_of(2, 20, 6, (5, 4), (2, 2), torch.float32)
    weight = in_layout(weight, "channels_last").detach().requires_grad_()
    y = up_conv(in_layout(x, layout), weight, bias)
    torch.testing.assert_close(y, torchs(x, weight, bias))
    (dweight,) = torch.autograd.grad(y, weight, grad)
    assert dweight.stride() == weight.stride()
    expected = torch.autograd.grad(torchs(x, weight, bias), weight, grad)[0]
    torch.testing.assert_close(dweight, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("copied_bytes", (0, 1 << 20))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_gradient_of_a_concatenation(layout, copied_bytes, monkeypatch):
    """A slice of channels, read where it lies."""
    monkeypatch.setattr(cpu_up_conv, "COPIED_BYTES", copied_bytes)
    x, weight, bias, grad = inputs_of(2, 20, 6, (5, 4), (2, 2), torch.float32)
    beside = torch.ones_like(grad)
    results = []
    for function in (up_conv, torchs):
        leaves = [in_layout(x, layout).detach().requires_grad_(), weight.clone().requires_grad_()]
        y = torch.cat((in_layout(beside, layout), function(*leaves, bias)), 1)
        results.append(torch.autograd.grad((y * y).sum(), leaves))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("channels,size", (((20, 30), (25, 25)), ((512, 128), (3, 4))))
def test_same_bits_for_every_number_of_threads(layout, channels, size):
    numbers = inputs_of(2, *channels, size, (2, 2), torch.float32)
    assert_same_bits(for_thread_counts((1, 3, 4), lambda: run(up_conv, numbers, layout)))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
def test_opcheck_and_gradcheck(layout):
    x, weight, bias, grad = inputs_of(2, 3, 4, (2, 3), (2, 1), torch.float64)
    x, grad = in_layout(x, layout), in_layout(grad, layout)
    for w in (weight, in_layout(weight, "channels_last")):
        torch.library.opcheck(torch.ops.fastseg.up_conv.default, (x, w, bias))
        for wanted in ([True, True, True], [True, False, False], [False, True, False]):
            torch.library.opcheck(torch.ops.fastseg.up_conv_backward.default, (grad, x, w, wanted))
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(up_conv, leaves)


@pytest.mark.parametrize(
    "inputs,outputs,size,kernel",
    (
        (1, 4, (3, 2), (2, 2)),
        (3, 1, (3, 2), (2, 2)),
        (3, 4, (1, 1), (2, 2)),
        (3, 4, (3, 2), (1, 1)),
        (1, 1, (2, 3, 1), (2, 1, 2)),
    ),
    ids=str,
)
def test_opcheck_of_layouts_that_are_both(inputs, outputs, size, kernel):
    x, weight, bias, grad = inputs_of(2, inputs, outputs, size, kernel, torch.float32)
    for layout in ("contiguous", "channels_last"):
        arguments = [in_layout(t, layout) for t in (grad, x, weight)]
        torch.library.opcheck(torch.ops.fastseg.up_conv.default, (*arguments[1:], bias))
        torch.library.opcheck(torch.ops.fastseg.up_conv_backward.default, (*arguments, [True, True, True]))


@pytest.mark.parametrize("copied_bytes", (0, 1 << 20))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_expanded_gradient_and_slices_of_parameters(layout, copied_bytes, monkeypatch):
    monkeypatch.setattr(cpu_up_conv, "COPIED_BYTES", copied_bytes)
    x, weight, bias, grad = inputs_of(2, 8, 20, (5, 4), (2, 2), torch.float32)
    leaves = [in_layout(x, layout).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    for gradient in (torch.ones(()).expand_as(grad[:, ::2]), grad[:, :1].expand_as(grad[:, ::2])):
        results = []
        for function in (up_conv, torchs):
            y = function(leaves[0], leaves[1][:, ::2], leaves[2][::2])
            results.append([y, *torch.autograd.grad(y, leaves, gradient)])
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


def test_keeps_x_and_the_weight_only():
    x, weight, bias, _ = (t.requires_grad_() for t in inputs_of(2, 8, 6, (5, 4), (2, 2), torch.float32))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        up_conv(x, weight, bias)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), weight.data_ptr()}


def test_nan_and_infinity_stay_where_they_are():
    x, weight, bias, _ = inputs_of(2, 8, 6, (5, 4), (2, 2), torch.float32)
    x[0, 3, 1, 2], x[1, 0, 4, 3] = float("nan"), float("inf")
    torch.testing.assert_close(up_conv(x, weight, bias), torchs(x, weight, bias), equal_nan=True, rtol=1e-5, atol=1e-5)


def test_second_derivatives():
    x, weight, bias, _ = inputs_of(2, 3, 4, (2, 3), (2, 1), torch.float64)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    (dx,) = torch.autograd.grad(up_conv(*leaves).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        dx.sum().backward()
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(up_conv, leaves)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_compile_without_break_or_recompile(layout):
    torch._dynamo.reset()
    function = torch.compile(lambda x, *p: up_conv(x * 2, *p).sum(1), fullgraph=True, dynamic=True)
    for size, stance in (((8, 9), "default"), ((10, 12), "fail_on_recompile")):
        x, weight, bias, grad = inputs_of(3, 13, 14, size, (2, 2), torch.float32)
        leaves = [t.requires_grad_() for t in (in_layout(x, layout).detach(), weight, bias)]
        with torch.compiler.set_stance(stance):
            y = function(*leaves)
        expected = up_conv(leaves[0] * 2, *leaves[1:]).sum(1)
        torch.testing.assert_close(y, expected)
        for a, b in zip(*(torch.autograd.grad(out, leaves, grad[:, 0]) for out in (y, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", ((0, 3, 4, 6), (2, 3, 0, 6), (2, 0, 4, 6)))
def test_empty(shape):
    x, weight = torch.zeros(shape, requires_grad=True), torch.zeros(shape[1], 6, 2, 3, requires_grad=True)
    bias = torch.ones(6, requires_grad=True)
    y = up_conv(x, weight, bias)
    assert y.shape == (shape[0], 6, 2 * shape[2], 3 * shape[3]) and (y == 1).all()
    y.sum().backward()
    assert x.grad.shape == shape and bias.grad.tolist() == [float(y[:, 0].numel())] * 6


def test_channels_last_stays():
    x, weight, *_ = inputs_of(2, 8, 6, (6, 7), (2, 2), torch.float32)
    x = in_layout(x, "channels_last")
    assert "cpu        runs" in fastseg.explain("up_conv", x)
    assert up_conv(x, weight).is_contiguous(memory_format=torch.channels_last)


def test_autocast():
    x, weight, bias, _ = inputs_of(1, 4, 6, (5, 5), (2, 2), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert up_conv(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "error,change,message",
    (
        (ValueError, {"x": torch.ones(3, 4, 6)}, r"x has shape \(3, 4, 6\), expected rank 4 or 5"),
        (ValueError, {"weight": torch.ones(3, 5, 2, 2, 2)}, r"weight has shape .*, expected \(3, O, kH, kW\)"),
        (ValueError, {"weight": torch.ones(2, 5, 2, 2)}, r"weight has shape \(2, 5, 2, 2\), expected \(3, O, kH, kW\)"),
        (ValueError, {"bias": torch.ones(3)}, r"bias has shape \(3,\), expected \(5,\)"),
        (ValueError, {"weight": torch.ones(3, 5, 0, 2)}, r"weight has shape \(3, 5, 0, 2\), expected \(3, O, kH, kW\)"),
        (ValueError, {"weight": torch.ones(3, 5, 2, 2, device="meta")}, "weight is on meta, expected x's device cpu"),
        (TypeError, {"weight": torch.ones(3, 5, 2, 2).double()}, "weight is torch.float64, expected x's dtype"),
        (TypeError, {"bias": torch.ones(5).double()}, "bias is torch.float64, expected x's dtype"),
        (TypeError, {"x": torch.ones(2, 3, 4, 6, dtype=torch.int64)}, "x is torch.int64, expected"),
    ),
)
def test_errors(error, change, message):
    arguments = {"x": torch.ones(2, 3, 4, 6), "weight": torch.ones(3, 5, 2, 2), "bias": torch.ones(5)}
    with pytest.raises(error, match=f"up_conv: .*{message}"):
        up_conv(**{**arguments, **change})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    tests = "wider_arithmetic or several_blocks or where_they_lie or past_the_caches"
    rerun_with_capability(__file__, capability, tests)
