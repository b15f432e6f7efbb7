"""The separable ops on CPU: in one kernel and in two, against wider arithmetic, and the contract of the ops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastseg
from fastseg import ops
from fastseg.backends import cpu
from tests.ops.depthwise_cases import square, torch_conv
from tests.support import (
    DTYPES,
    assert_same_bits,
    assert_within_budget,
    for_thread_counts,
    in_layout,
    poison,
    rerun_with_capability,
)


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_output")


@pytest.mark.parametrize("kernels", ("one_kernel", "two_kernels"))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case,outputs",
    (
        (square(3, 9, 3, stride=2), 7),
        (square(2, 21, 5, channels=16), 40),
        (square(3, 13, 3, channels=33), 65),
        (square(2, 12, 3, channels=70), 5),  # several blocks of channels
        (square(2, 14, 3, multiplier=2), 6),
        (square(2, 40, 3, dilation=6, channels=8), 64),
    ),
    ids=str,
)
def test_against_wider_arithmetic(case, outputs, dtype, layout, kernels, request):
    if kernels == "one_kernel":
        request.getfixturevalue(kernels)
    x, weight, bias, _ = case.inputs(torch.float64)
    rank = len(case.image)
    pointwise, shift = torch.randn(outputs, len(weight), *[1] * rank).double(), torch.randn(outputs).double()
    numbers = [t.to(dtype) for t in (x, weight, pointwise, bias, shift)]
    x, weight, pointwise, bias, shift = numbers
    op = {2: ops.depthwise_separable_conv2d, 3: ops.depthwise_separable_conv3d}[rank]

    def both(x, weight, pointwise, bias, shift):
        return {2: F.conv2d, 3: F.conv3d}[rank](torch_conv(case, x, weight, bias), pointwise, shift)

    arguments = {"depthwise_bias": bias, "pointwise_bias": shift, **case.geometry}
    y = op(in_layout(x, layout), weight, pointwise, **arguments)
    truth, size = both(*(t.double() for t in numbers)), both(*(t.double().abs() for t in numbers))
    assert_within_budget(y, truth, both(*numbers), "y", terms=size.max().item())
    leaf = in_layout(x, layout).detach().requires_grad_()
    watched = op(leaf, weight, pointwise, **arguments)
    assert watched.requires_grad and watched.stride() == y.stride()
    assert_within_budget(watched.detach(), truth, both(*numbers), "y", terms=size.max().item())


def test_past_the_caches_and_for_every_number_of_threads():
    x = in_layout(torch.randn(2, 16, 320, 288), "channels_last")
    weight, pointwise = torch.randn(16, 1, 3, 3), torch.randn(32, 16, 1, 1)
    results = for_thread_counts((1, 3, 4), lambda: ops.depthwise_separable_conv2d(x, weight, pointwise, padding=1))
    assert_same_bits(results)
    torch.testing.assert_close(results[0], F.conv2d(F.conv2d(x, weight, padding=1, groups=16), pointwise))


def test_under_the_reference():
    x, weight, pointwise = torch.randn(2, 4, 8, 9), torch.randn(4, 1, 3, 3), torch.randn(6, 4, 1, 1)
    expected = ops.depthwise_separable_conv2d(x, weight, pointwise, padding=1)
    with fastseg.backend("reference"):
        torch.testing.assert_close(ops.depthwise_separable_conv2d(x, weight, pointwise, padding=1), expected)


def test_opcheck(one_kernel):
    x, weight, pointwise = torch.randn(2, 4, 8, 9), torch.randn(4, 1, 3, 3), torch.randn(6, 4, 1, 1)
    for layout in ("contiguous", "channels_last"):
        arguments = (in_layout(x, layout), weight, pointwise, None, torch.randn(6), [1, 1], [1, 1], [1, 1], [8, 9])
        torch.library.opcheck(torch.ops.fastseg.depthwise_separable_conv.default, arguments)


@pytest.mark.parametrize(
    "change,message",
    (
        ({"pointwise_weight": torch.randn(6, 3, 1, 1)}, r"pointwise_conv: weight has shape \(6, 3, 1, 1\), expected"),
        ({"pointwise_bias": torch.randn(5)}, r"pointwise_conv: bias has shape \(5,\), expected \(6,\)"),
        ({"depthwise_weight": torch.randn(3, 1, 3, 3)}, "depthwise_conv2d: weight has 3 filters"),
    ),
)
@pytest.mark.parametrize("gradients_wanted", (False, True))
def test_errors(change, message, gradients_wanted):
    arguments = {
        "x": torch.randn(2, 4, 8, 9, requires_grad=gradients_wanted),
        "depthwise_weight": torch.randn(4, 1, 3, 3),
        "pointwise_weight": torch.randn(6, 4, 1, 1),
    }
    with pytest.raises(ValueError, match=message):
        ops.depthwise_separable_conv2d(**{**arguments, **change})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    rerun_with_capability(__file__, capability, "wider_arithmetic")
