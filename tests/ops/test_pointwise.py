"""pointwise_conv on CPU: against wider arithmetic, every layout and dtype, and the contract of the op."""

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
    poison,
    rerun_with_capability,
    run,
)

CONV = {2: F.conv2d, 3: F.conv3d}


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_output")


def inputs_of(batch: int, inputs: int, outputs: int, image: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(inputs)
    shapes = ((batch, inputs, *image), (outputs, inputs, *[1] * len(image)), (outputs,), (batch, outputs, *image))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def extended(numbers: list[Tensor], magnitude: bool = False) -> list[Tensor]:
    """y and the gradients in NumPy's long double, rounded to float64; with ``magnitude`` of absolute values."""
    x, weight, bias, grad = (t.double().numpy().astype(np.longdouble) for t in numbers)
    if magnitude:
        x, weight, bias, grad = map(np.abs, (x, weight, bias, grad))
    matrix = weight.reshape(weight.shape[:2])
    rows, grad_rows = (t.reshape(*t.shape[:2], -1) for t in (x, grad))
    results = (
        (matrix @ rows + bias[:, None]).reshape(grad.shape),
        (matrix.T @ grad_rows).reshape(x.shape),
        (grad_rows @ rows.transpose(0, 2, 1)).sum(0).reshape(weight.shape),
        grad_rows.sum((0, 2)),
    )
    return [torch.from_numpy(r.astype(np.float64)) for r in results]


def check(batch: int, inputs: int, outputs: int, image: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    numbers = inputs_of(batch, inputs, outputs, image, dtype)
    fused, peer = run(pointwise_conv, numbers, layout), run(CONV[len(image)], numbers)
    exact, size = extended(numbers), extended(numbers, magnitude=True)
    for name, actual, truth, theirs, terms in zip(
        ("y", "dx", "dweight", "dbias"), fused, exact, peer, size, strict=True
    ):
        assert_within_budget(actual, truth, theirs, name, terms=terms.max().item())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "batch,inputs,outputs,image", ((2, 5, 11, (7, 9)), (1, 33, 17, (5, 6, 31)), (3, 8, 8, (16, 16)))
)
def test_against_wider_arithmetic(batch, inputs, outputs, image, dtype, layout):
    check(batch, inputs, outputs, image, dtype, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(
    "batch,inputs,outputs,image",
    (
        (2, 64, 48, (40, 60)),
        (1, 300, 200, (33, 9)),
        (3, 1100, 70, (5, 7)),  # sums in runs of inputs
        (8, 300, 840, (7, 7)),  # few pixels: threads have outputs of their own
        (2, 320, 80, (3, 4, 5)),
        (1, 1, 1, (1, 1)),
    ),
)
def test_several_panels(batch, inputs, outputs, image, layout):
    check(batch, inputs, outputs, image, torch.float32, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("image", ((5, 6), (40, 41)))
def test_slices(layout, image):
    """Of x over channels and of the weight over both, whose numbers have no neighbours."""
    wide, matrix, _, grad = inputs_of(2, 40, 37, image, torch.float32)
    matrix = torch.cat((matrix, matrix.flip(0)), 0).repeat(1, 2, 1, 1)

    def results(function, dtype: torch.dtype, size: bool = False) -> list[Tensor]:
        numbers = [(t.abs() if size else t).to(dtype) for t in (wide, matrix, grad)]
        x, weight = in_layout(numbers[0], layout)[:, 3:36], numbers[1][::2, :66:2]
        leaves = [t.detach().requires_grad_() for t in (x, weight)]
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, numbers[2])]

    ours, theirs = results(pointwise_conv, torch.float32), results(F.conv2d, torch.float32)
    exact, sizes = results(F.conv2d, torch.float64), results(F.conv2d, torch.float64, size=True)
    for name, actual, truth, peer, terms in zip(("y", "dx", "dweight"), ours, exact, theirs, sizes, strict=True):
        assert_within_budget(actual, truth, peer, name, terms=terms.max().item())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    image=st.lists(st.integers(1, 20), min_size=2, max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
)
def test_any_shape(batch, inputs, outputs, image, dtype, layout):
    check(batch, inputs, outputs, image, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("image", ((3, 4), (2, 2, 3)))
def test_many_channels_of_few_pixels(dtype, layout, image):
    """Rows of those are copied to channels-last."""
    check(2, 1024, 256, image, dtype, layout)


@pytest.mark.parametrize("wanted", ([True, False, False], [False, True, True], [False, True, False]), ids=str)
def test_only_what_is_wanted_of_many_channels(wanted):
    x, weight, bias, grad = inputs_of(1, 512, 512, (3, 4), torch.float64)
    torch.library.opcheck(pointwise._backward_op, (grad, x, weight, wanted))
    torch.library.opcheck(pointwise._forward_op, (x, weight, bias))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_outputs_past_the_caches(layout):
    check(1, 9, 48, (384, 448), torch.float32, layout)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("channels,image", (((20, 30), (50, 50)), ((512, 512), (6, 7))))
def test_same_bits_for_every_number_of_threads(layout, channels, image):
    numbers = inputs_of(2, *channels, image, torch.float32)
    assert_same_bits(for_thread_counts((1, 3, 4), lambda: run(pointwise_conv, numbers, layout)))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
def test_opcheck_and_gradcheck(layout):
    x, weight, bias, grad = inputs_of(2, 3, 4, (5, 6), torch.float64)
    x, grad = in_layout(x, layout), in_layout(grad, layout)
    torch.library.opcheck(pointwise._forward_op, (x, weight, bias))
    for wanted in ([True, True, True], [True, False, False], [False, True, False]):
        torch.library.opcheck(pointwise._backward_op, (grad, x, weight, wanted))
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(pointwise_conv, leaves)


@pytest.mark.parametrize("shape", ((0, 3, 4, 5), (2, 3, 0, 5), (2, 0, 4, 5)))
def test_empty(shape):
    x, weight = torch.zeros(shape, requires_grad=True), torch.zeros(6, shape[1], 1, 1, requires_grad=True)
    bias = torch.ones(6, requires_grad=True)
    y = pointwise_conv(x, weight, bias)
    assert y.shape == (shape[0], 6, *shape[2:]) and (y == 1).all()
    y.sum().backward()
    assert x.grad.shape == shape and bias.grad.tolist() == [float(y[:, 0].numel())] * 6


def test_channels_last_stays(capsys):
    x = in_layout(torch.randn(2, 8, 6, 7), "channels_last")
    assert "cpu        runs" in fastseg.explain("pointwise_conv", x)
    assert pointwise_conv(x, torch.randn(5, 8, 1, 1)).is_contiguous(memory_format=torch.channels_last)


def test_autocast():
    x, weight, bias, _ = inputs_of(1, 4, 6, (5, 5), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert pointwise_conv(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "error,change,message",
    (
        (ValueError, {"x": torch.randn(3, 4, 5)}, r"x has shape \(3, 4, 5\), expected rank 4 or 5"),
        (ValueError, {"weight": torch.randn(6, 2, 1, 1)}, r"weight has shape \(6, 2, 1, 1\), expected \(O, 3, 1, 1\)"),
        (ValueError, {"weight": torch.randn(6, 3, 3, 1)}, r"expected \(O, 3, 1, 1\)"),
        (ValueError, {"bias": torch.randn(5)}, r"bias has shape \(5,\), expected \(6,\)"),
        (TypeError, {"weight": torch.randn(6, 3, 1, 1).double()}, "weight is torch.float64, expected x's dtype"),
    ),
)
def test_errors(error, change, message):
    arguments = {"x": torch.randn(2, 3, 4, 5), "weight": torch.randn(6, 3, 1, 1), "bias": torch.randn(6)}
    with pytest.raises(error, match=f"pointwise_conv: .*{message}"):
        pointwise_conv(**{**arguments, **change})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    rerun_with_capability(__file__, capability, "wider_arithmetic or several_panels or few_pixels")
