"""The residual of pointwise_conv on CPU: of the output's size or half of it, in every layout and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg.backends import cpu
from fastseg.ops import pointwise, pointwise_conv
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
NAMES = ("y", "dx", "dweight", "dbias", "dresidual")


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_output")


def fused(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return pointwise_conv(x, weight, bias, residual=residual)


def one_by_one(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    y = CONV[x.ndim](x, weight, bias)
    return y + (residual if residual.shape == y.shape else F.interpolate(residual, scale_factor=2.0, mode="nearest"))


def inputs_of(
    batch: int, inputs: int, outputs: int, half: tuple[int, ...], scale: int, dtype: torch.dtype
) -> list[Tensor]:
    """x, weight, bias, a residual of ``half`` the size (where scale is 2), and the gradient of y."""
    generator = torch.Generator().manual_seed(outputs)
    image = tuple(scale * size for size in half)
    one = [1] * len(half)
    shapes = ((batch, inputs, *image), (outputs, inputs, *one), (outputs,), (batch, outputs, *half))
    return [torch.randn(s, generator=generator).to(dtype) for s in (*shapes, (batch, outputs, *image))]


def run(function, numbers: list[Tensor], layout: str = "contiguous", residual_layout: str | None = None):
    x, weight, bias, residual, grad = numbers
    x, residual = in_layout(x, layout), in_layout(residual, residual_layout or layout)
    leaves = [t.detach().clone(memory_format=torch.preserve_format) for t in (weight, bias)]
    leaves = [t.detach().requires_grad_() for t in (x, *leaves, residual)]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, in_layout(grad, layout))]


def extended(numbers: list[Tensor], magnitude: bool = False) -> list[Tensor]:
    """y and the gradients in NumPy's long double, rounded to float64; with ``magnitude`` of absolute values."""
    x, weight, bias, residual, grad = (t.double().numpy().astype(np.longdouble) for t in numbers)
    if magnitude:
        x, weight, bias, residual, grad = map(np.abs, (x, weight, bias, residual, grad))
    matrix, scale = weight.reshape(weight.shape[:2]), grad.shape[-1] // residual.shape[-1]
    summed = grad
    for axis in range(2, grad.ndim):
        residual = np.repeat(residual, scale, axis)
        summed = np.add.reduceat(summed, range(0, grad.shape[axis], scale), axis)
    rows, grad_rows = (t.reshape(*t.shape[:2], -1) for t in (x, grad))
    results = (
        (matrix @ rows + bias[:, None]).reshape(grad.shape) + residual,
        (matrix.T @ grad_rows).reshape(x.shape),
        (grad_rows @ rows.transpose(0, 2, 1)).sum(0).reshape(weight.shape),
        grad_rows.sum((0, 2)),
        summed,
    )
    return [torch.from_numpy(r.astype(np.float64)) for r in results]


def check(numbers: list[Tensor], layout: str, residual_layout: str | None = None) -> None:
    actual, peer = run(fused, numbers, layout, residual_layout), run(one_by_one, numbers)
    exact, size = extended(numbers), extended(numbers, magnitude=True)
    for name, ours, truth, theirs, terms in zip(NAMES, actual, exact, peer, size, strict=True):
        assert_within_budget(ours, truth, theirs, name, terms=terms.max().item())


@pytest.mark.parametrize(
    "dtype,layout,residual_layout,scale,shape",
    pairwise(
        DTYPES,
        LAYOUTS,
        LAYOUTS,
        (1, 2),
        ((2, 5, 11, (7, 9)), (1, 33, 17, (3, 5, 11)), (3, 8, 8, (16, 16)), (2, 7, 66, (1, 2)), (1, 3, 2, (1, 1))),
    ),
    ids=str,
)
def test_against_wider_arithmetic(dtype, layout, residual_layout, scale, shape):
    check(inputs_of(*shape, scale, dtype), layout, residual_layout)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 70),
    half=st.lists(st.integers(1, 12), min_size=2, max_size=3).map(tuple),
    scale=st.integers(1, 2),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
)
def test_any_shape(batch, inputs, outputs, half, scale, dtype, layout):
    check(inputs_of(batch, inputs, outputs, half, scale, dtype), layout)


@pytest.mark.parametrize(
    "half,layout,scale", (((2, 3), "contiguous", 2), ((1, 2, 2), "channels_last", 2), ((2, 3), "channels_last", 1))
)
def test_many_channels(half, layout, scale):
    """Rows of those are copied to channels-last."""
    check(inputs_of(1, 1024, 256, half, scale, torch.float32), layout)


@pytest.mark.parametrize("layout,scale", (("contiguous", 2), ("channels_last", 1), ("channels_last", 2)))
def test_outputs_past_the_caches(layout, scale):
    check(inputs_of(1, 5, 48, (384 // scale, 250 // scale), scale, torch.float32), layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("half", ((45, 35), (9, 10, 11)))
def test_same_bits_for_every_number_of_threads(layout, half):
    numbers = inputs_of(2, 7, 9, half, 2, torch.float32)
    assert_same_bits(for_thread_counts((1, 3, 4), lambda: run(fused, numbers, layout)))


@pytest.mark.parametrize(
    "half,layout,scale", (((3, 2), "channels_last", 2), ((2, 1, 2), "contiguous", 2), ((2, 1, 2), "permuted", 1))
)
def test_opcheck_and_gradcheck(half, layout, scale):
    x, weight, bias, residual, grad = inputs_of(1, 2, 3, half, scale, torch.float64)
    x, residual = in_layout(x, layout), in_layout(residual, layout)
    torch.library.opcheck(pointwise._forward_op, (x, weight, bias, residual))
    torch.library.opcheck(pointwise._residual_gradient_op, (in_layout(grad, layout), half))
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias, residual)]
    assert torch.autograd.gradcheck(fused, leaves)
    with fastseg.backend("reference"):
        assert torch.autograd.gradcheck(fused, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(fused, leaves, fast_mode=True)


def test_only_the_residual_wants_a_gradient():
    x, weight, bias, residual, grad = inputs_of(1, 3, 4, (3, 2), 2, torch.float64)
    residual.requires_grad_()
    (gradient,) = torch.autograd.grad(pointwise_conv(x, weight, bias, residual=residual), residual, grad)
    assert torch.allclose(gradient, grad.unflatten(3, (2, 2)).unflatten(2, (3, 2)).sum((3, 5)))


def test_compiled_without_a_recompile_for_a_second_size():
    torch._dynamo.reset()
    compiled = torch.compile(fused, fullgraph=True, dynamic=True)
    for half in ((7, 11), (8, 13)):  # no size is a number of channels: those would be taken for one symbol
        numbers = inputs_of(2, 3, 4, half, 2, torch.float32)
        with torch._dynamo.config.patch(error_on_recompile=half == (8, 13)):
            for ours, eager in zip(run(compiled, numbers), run(fused, numbers), strict=True):
                assert torch.equal(ours, eager)


@pytest.mark.parametrize("shape", ((0, 3, 4, 6), (2, 3, 0, 6), (2, 0, 4, 6)))
def test_empty(shape):
    x, weight = torch.zeros(shape, requires_grad=True), torch.zeros(5, shape[1], 1, 1, requires_grad=True)
    residual = torch.ones(shape[0], 5, shape[2] // 2, 3, requires_grad=True)
    y = pointwise_conv(x, weight, residual=residual)
    assert y.shape == (shape[0], 5, *shape[2:]) and (y == 1).all()
    y.sum().backward()
    assert x.grad.shape == shape and residual.grad.shape == residual.shape and (residual.grad == 4).all()


def test_autocast():
    x, weight, bias, residual, _ = inputs_of(1, 4, 6, (5, 5), 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(x, weight, bias, residual).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "error,residual,message",
    (
        (ValueError, torch.randn(2, 6, 2, 5), r"residual has shape \(2, 6, 2, 5\), expected \(2, 6, 4, 5\) or half of"),
        (ValueError, torch.randn(2, 6, 2, 2), r"residual has shape \(2, 6, 2, 2\), expected \(2, 6, 4, 5\) or half of"),
        (ValueError, torch.randn(2, 3, 4, 5), r"residual has shape \(2, 3, 4, 5\), expected \(2, 6, 4, 5\)"),
        (TypeError, torch.randn(2, 6, 4, 5).double(), "residual is torch.float64, expected x's dtype torch.float32"),
    ),
)
def test_errors(error, residual, message):
    with pytest.raises(error, match=f"pointwise_conv: {message}"):
        pointwise_conv(torch.randn(2, 3, 4, 5), torch.randn(6, 3, 1, 1), residual=residual)


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    rerun_with_capability(__file__, capability, "wider_arithmetic")
