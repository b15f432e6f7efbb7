"""soft_mask_attention on CPU: every layout and dtype against the float64 reference, and the op's contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.backends import cpu_soft_mask_attention as cpu
from fastseg.ops import pointwise_conv, soft_mask_attention, soft_mask_attention_conv
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

SHAPES = (
    (2, 3, 7),  # rank 3
    (1, 1, 1),
    (2, 5, 9, 11),
    (1, 33, 17, 19),  # channels that fill no vector
    (3, 16, 1, 37),
    (2, 4, 5, 6, 7),
    (1, 2, 3, 4, 3, 5),  # rank 6
    (1, 2, 41, 43, 47),  # more than one chunk
    (2, 40, 50, 61),  # several blocks of pixels, more than one run of channels
)


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "empty_like")
    poison(monkeypatch, cpu, "new_empty")


def torch_ops(trunk: Tensor, mask: Tensor) -> Tensor:
    """What a user writes today."""
    return (1 + torch.sigmoid(mask)) * trunk


def gradients(function, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def extended(inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """y and the gradients in NumPy's long double."""
    trunk, mask, g = (t.double().numpy().astype(np.longdouble) for t in (*inputs, grad))
    e = np.exp(-np.abs(mask))
    s = np.where(mask < 0, e, 1) / (1 + e)
    dmask = g * trunk * e / (1 + e) ** 2
    if mask.shape[1] != trunk.shape[1]:
        dmask = dmask.sum(1, keepdims=True)
    return [torch.from_numpy(r.astype(np.float64)) for r in ((1 + s) * trunk, g * (1 + s), dmask)]


def check(inputs: list[Tensor], grad: Tensor, case: str = "") -> None:
    ours, peer = gradients(soft_mask_attention, inputs, grad), gradients(torch_ops, inputs, grad)
    exact = extended(inputs, grad)
    # dmask of one channel is a sum: each summand is rounded once, and independent roundings add up so.
    summands = (grad.double() * inputs[0].double() / 4).square().sum(1).sqrt().max().item() if grad.numel() else 0.0
    assert ours[0].dtype == inputs[0].dtype
    for name, a, t, p in zip(("y", "dtrunk", "dmask"), ours, exact, peer, strict=True):
        assert_within_budget(a, t, p, f"{name} {case}", terms=summands if name == "dmask" else 0.0)


def drawn(shape: tuple[int, ...], one: bool, dtype: torch.dtype, layout: str, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    sizes = (shape, (shape[0], 1, *shape[2:]) if one else shape, shape)
    return [in_layout((3 * torch.randn(s, generator=generator)).to(dtype), layout) for s in sizes]


@pytest.mark.parametrize(("shape", "dtype", "layout", "one"), pairwise(SHAPES, DTYPES, LAYOUTS, (False, True)), ids=str)
def test_forward_and_backward_match_float64(shape, dtype, layout, one):
    *inputs, grad = drawn(shape, one, dtype, layout)
    check(inputs, grad)


@pytest.mark.parametrize("one", (False, True))
@pytest.mark.parametrize("layouts", (("contiguous", "channels_last"), ("channels_last", "contiguous")))
def test_trunk_and_mask_in_different_layouts(layouts, one):
    trunk, mask, grad = drawn((2, 5, 9, 11), one, torch.float32, layouts[0])
    check([trunk, in_layout(mask, layouts[1])], in_layout(grad, layouts[1]))


@pytest.mark.parametrize("one", (False, True))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_outputs_past_the_caches(layout, one):
    *inputs, grad = drawn((2, 16, 401, 403), one, torch.float32, layout)
    check(inputs, grad)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    spatial=st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda s: torch.Size(s).numel() < 20_000),
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    one=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**31),
)
def test_random_shapes(spatial, batch, channels, one, dtype, layout, seed):
    *inputs, grad = drawn((batch, channels, *spatial), one, dtype, layout, seed)
    check(inputs, grad, f"{(batch, channels, *spatial)}")


def test_extreme_logits():
    logits = [0.0, -0.0, 1e-30, 20.0, -20.0, 87.0, -87.0, 88.5, -88.5, 104.0, -104.0, 1e30, -1e30]
    for dtype in DTYPES:
        mask = torch.tensor([*logits, float("inf"), float("-inf")]).to(dtype).reshape(1, 1, -1)
        trunk = torch.linspace(1, 2, mask.numel()).to(dtype).reshape(1, 1, -1)
        ours = gradients(soft_mask_attention, [trunk, mask], trunk)
        for a, t in zip(ours, extended([trunk, mask], trunk), strict=True):
            torch.testing.assert_close(a.double(), t, rtol=4 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)


@pytest.mark.parametrize("one", (False, True))
def test_infinite_trunk_and_nan(one):
    trunk, mask, _ = drawn((1, 2, 40), one, torch.float32, "contiguous")
    trunk[0, 1, 3], trunk[0, 1, 4], mask[0, 0, 5], mask[0, 0, 3] = float("inf"), float("nan"), float("nan"), -1e4
    y = soft_mask_attention(trunk, mask)
    torch.testing.assert_close(y, torch_ops(trunk, mask), equal_nan=True)
    assert y[0, 1, 3] == float("inf")


def test_memory_format_is_kept():
    trunk = torch.randn(2, 5, 6, 7, 8).to(memory_format=torch.channels_last_3d).requires_grad_()
    y = soft_mask_attention(trunk, torch.randn(2, 5, 6, 7, 8))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    (grad,) = torch.autograd.grad(y, trunk, torch.randn(2, 5, 6, 7, 8))
    assert grad.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("one", (False, True))
def test_expanded_gradient_and_single_gradients(one):
    trunk, mask, _ = drawn((2, 3, 9, 10), one, torch.float32, "contiguous")
    full = torch.full_like(trunk, 0.7)
    _, dtrunk, dmask = gradients(soft_mask_attention, [trunk, mask], full)
    _, *expanded = gradients(soft_mask_attention, [trunk, mask], torch.tensor(0.7).expand_as(full))
    assert torch.equal(expanded[0], dtrunk) and torch.equal(expanded[1], dmask)
    alone = trunk.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(soft_mask_attention(alone, mask), alone, full)[0], dtrunk)
    alone = mask.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(soft_mask_attention(trunk, alone), alone, full)[0], dmask)


def test_mask_of_another_dtype():
    trunk, mask = torch.randn(1, 2, 8).bfloat16().requires_grad_(), torch.randn(1, 1, 8, requires_grad=True)
    y = soft_mask_attention(trunk, mask)
    y.float().sum().backward()
    assert y.dtype == trunk.grad.dtype == torch.bfloat16 and mask.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
@pytest.mark.parametrize("one", (False, True))
def test_empty(shape, one):
    trunk, mask, _ = (t.requires_grad_() for t in drawn(shape, one, torch.float32, "contiguous"))
    y = soft_mask_attention(trunk, mask)
    assert y.shape == shape
    y.sum().backward()
    assert trunk.grad.shape == shape and (mask.grad == 0).all()


@pytest.mark.parametrize("one", (False, True))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_deterministic_and_independent_of_threads(layout, one):
    *inputs, grad = drawn((2, 20, 70, 90), one, torch.float32, layout)
    assert_same_bits(for_thread_counts((1, 2, 3, 4, 4), lambda: gradients(soft_mask_attention, inputs, grad)))


def test_keeps_its_inputs_only():
    saved: list[Tensor] = []
    trunk, mask = (torch.randn(2, 4, 8, 8, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        soft_mask_attention(trunk, mask)
    assert [t.data_ptr() for t in saved] == [trunk.data_ptr(), mask.data_ptr()]


@pytest.mark.parametrize("one", (False, True))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_and_gradcheck(layout, one):
    trunk, mask, grad = drawn((2, 3, 4, 5), one, torch.float64, layout)
    torch.library.opcheck(torch.ops.fastseg.soft_mask_attention.default, (trunk, mask))
    for wanted in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(torch.ops.fastseg.soft_mask_attention_backward.default, (grad, trunk, mask, *wanted))
    assert torch.autograd.gradcheck(soft_mask_attention, [t.requires_grad_() for t in (trunk, mask)])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_compile_without_break_or_recompile(layout):
    torch._dynamo.reset()
    function = torch.compile(lambda t, s: soft_mask_attention(t * 2, s).sum(1), fullgraph=True, dynamic=True)
    for shape, stance in (((2, 6, 8, 9), "default"), ((3, 7, 10, 11), "fail_on_recompile")):
        trunk, mask, grad = drawn(shape, False, torch.float32, layout)
        leaves = [t.requires_grad_() for t in (trunk, mask)]
        with torch.compiler.set_stance(stance):
            y = function(*leaves)
        expected = soft_mask_attention(trunk * 2, mask).sum(1)
        torch.testing.assert_close(y, expected)
        for a, b in zip(*(torch.autograd.grad(out, leaves, grad[:, 0]) for out in (y, expected)), strict=True):
            torch.testing.assert_close(a, b)


def test_double_backward_is_refused():
    trunk, mask = (torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    (grad,) = torch.autograd.grad(soft_mask_attention(trunk, mask).square().sum(), mask, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(soft_mask_attention, (trunk, mask))


def test_autocast_keeps_sixteen_bit():
    conv = torch.nn.Conv2d(3, 8, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trunk = conv(torch.randn(1, 3, 10, 10))
        assert soft_mask_attention(trunk, torch.zeros(1, 1, 8, 8)).dtype == torch.bfloat16


def test_explain_and_definition(capsys):
    trunk, mask, _ = drawn((1, 2, 5), False, torch.float64, "contiguous")
    assert "cpu        runs" in fastseg.explain("soft_mask_attention", trunk)
    torch.testing.assert_close(reference.soft_mask_attention(trunk, mask), torch_ops(trunk, mask))


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"trunk has shape \(2, 3\), expected rank 3 or more", {"trunk": torch.randn(2, 3)}),
        (TypeError, r"trunk is torch.int64, expected float32", {"trunk": torch.ones(2, 3, 5, dtype=torch.int64)}),
        (TypeError, r"mask_logits is torch.complex64", {"mask_logits": torch.ones(2, 3, 5, dtype=torch.complex64)}),
        (
            ValueError,
            r"mask_logits has shape \(2, 2, 5\), expected trunk's shape \(2, 3, 5\) or \(2, 1, 5\)",
            {"mask_logits": torch.ones(2, 2, 5)},
        ),
        (
            ValueError,
            r"mask_logits is on meta, expected trunk's device cpu",
            {"mask_logits": torch.ones(2, 3, 5, device="meta")},
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_errors_name_the_argument(error, message, arguments):
    with pytest.raises(error, match=f"soft_mask_attention: {message}"):
        soft_mask_attention(**{"trunk": torch.randn(2, 3, 5), "mask_logits": torch.randn(2, 3, 5), **arguments})


def two_kernels(trunk: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return soft_mask_attention(trunk, pointwise_conv(features, weight, bias))


def convolved(shape: tuple[int, ...], inputs: int, dtype: torch.dtype, layout: str, one: bool = False) -> list[Tensor]:
    trunk, _, grad = drawn(shape, False, dtype, layout)
    features = drawn((shape[0], inputs, *shape[2:]), False, dtype, layout, seed=1)[0]
    weight = drawn((1 if one else shape[1], inputs, *[1] * (len(shape) - 2)), False, dtype, "contiguous")[1] / inputs
    return [trunk, features, weight, drawn((1, weight.shape[0], 1), False, dtype, "contiguous")[0].reshape(-1), grad]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "inputs"),
    (((2, 5, 9, 11), 3), ((1, 33, 17, 19), 20), ((2, 4, 5, 6, 7), 8), ((1, 1, 3, 5), 1), ((1, 48, 60, 70), 32)),
    ids=str,
)
def test_with_the_convolution_of_the_mask(shape, inputs, dtype, layout):
    *tensors, grad = convolved(shape, inputs, dtype, layout)
    exact = gradients(two_kernels, [t.double() for t in tensors], grad.double())
    apart = gradients(two_kernels, tensors, grad)
    y = soft_mask_attention_conv(*tensors)
    assert y.dtype == dtype and y.stride() == apart[0].stride()
    assert_within_budget(y, exact[0], apart[0])  # without the rounding of the mask
    for a, b in zip(gradients(soft_mask_attention_conv, tensors, grad), apart, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("one", (False, True))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_conv_beyond_the_caches_and_for_every_number_of_threads(layout, one):
    *tensors, _ = convolved((1, 48, 384, 448), 9, torch.float32, layout, one)
    results = for_thread_counts((1, 3, 4), lambda: soft_mask_attention_conv(*tensors))
    assert_same_bits(results)
    torch.testing.assert_close(results[0], two_kernels(*tensors))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "permuted"))
def test_conv_opcheck_gradcheck_and_compile(layout):
    *tensors, _ = convolved((2, 3, 4, 5), 2, torch.float64, layout)
    torch.library.opcheck(torch.ops.fastseg.soft_mask_attention_conv.default, tuple(tensors))
    leaves = [t.detach().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(soft_mask_attention_conv, leaves)
    torch._dynamo.reset()
    compiled = torch.compile(soft_mask_attention_conv, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*leaves), two_kernels(*tensors))
    with fastseg.backend("reference"):
        torch.testing.assert_close(soft_mask_attention_conv(*tensors), two_kernels(*tensors))


def test_conv_takes_autocast_and_empty_batches():
    *tensors, _ = convolved((2, 4, 8, 8), 3, torch.float32, "channels_last")
    with torch.autocast("cpu", torch.bfloat16):
        assert soft_mask_attention_conv(tensors[0].bfloat16(), *tensors[1:]).dtype == torch.bfloat16
    assert soft_mask_attention_conv(torch.zeros(0, 4, 8, 8), torch.zeros(0, 3, 8, 8), *tensors[2:]).shape[0] == 0


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"trunk has shape \(2, 3, 5\), expected rank 4 or 5", {"trunk": torch.randn(2, 3, 5)}),
        (
            ValueError,
            r"features has shape \(2, 4, 6, 5\), expected \(2, K, 5, 5\)",
            {"features": torch.ones(2, 4, 6, 5)},
        ),
        (TypeError, r"features is torch.float64, expected trunk's", {"features": torch.ones(2, 4, 5, 5).double()}),
        (ValueError, r"weight has shape \(3, 5, 1, 1\), expected \(O, 4, 1, 1\)", {"weight": torch.ones(3, 5, 1, 1)}),
        (ValueError, r"weight has 2 filters, expected trunk's 3 or 1", {"weight": torch.ones(2, 4, 1, 1)}),
        (ValueError, r"bias has shape \(2,\), expected \(3,\)", {"bias": torch.ones(2)}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_conv_errors_name_the_argument(error, message, arguments):
    good = {"trunk": torch.ones(2, 3, 5, 5), "features": torch.ones(2, 4, 5, 5), "weight": torch.ones(3, 4, 1, 1)}
    with pytest.raises(error, match=f"soft_mask_attention_conv: {message}"):
        soft_mask_attention_conv(**{**good, **arguments})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "match_float64 or caches or extreme or infinite or with_the_conv")
