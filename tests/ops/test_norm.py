"""instance_norm_act on CPU: every layout and dtype against the float64 reference, and the op's contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fastseg
from fastseg import reference
from fastseg.backends import cpu
from fastseg.ops import instance_norm_act
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
    (1, 1, 2),  # the smallest that has a variance
    (2, 5, 9, 11),
    (1, 33, 17, 19),  # channels that fill no vector
    (3, 16, 1, 37),
    (2, 4, 5, 6, 7),
    (1, 2, 41, 43, 47),  # more than one chunk of a row, a ragged last block
    (1, 70, 1, 3, 500),  # several chunks of pixels
)
ACTIVATIONS = ("none", "relu", "leaky_relu")


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "empty_like")
    poison(monkeypatch, cpu, "statistics_like")


def torch_ops(x, weight, bias, residual, activation, negative_slope, eps=1e-5):
    """What a user writes today."""
    y = F.instance_norm(x, weight=weight, bias=bias, eps=eps)
    if residual is not None:
        y = y + residual
    return {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, negative_slope)}[activation](y)


def gradients(function, inputs: list[Tensor | None], grad: Tensor, *args) -> list[Tensor]:
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    y = function(*leaves, *args)
    present = [t for t in leaves if t is not None]
    return [y.detach(), *torch.autograd.grad(y, present, grad.to(y.dtype))]


def fused(x, weight, bias, residual, activation, negative_slope):
    return instance_norm_act(x, weight, bias, residual=residual, activation=activation, negative_slope=negative_slope)


def exact(x, weight, bias, residual, activation, negative_slope):
    return reference.instance_norm_act(
        x, weight, bias, residual=residual, activation=activation, negative_slope=negative_slope
    )


def extended(inputs, grad, activation, negative_slope, eps=1e-5) -> list[Tensor]:
    """y and the gradients in NumPy's long double: the truth for float64 inputs."""
    x, weight, bias, residual = (None if t is None else t.numpy().astype(np.longdouble) for t in inputs)
    axes = tuple(range(2, x.ndim))
    per_channel = (1, -1) + (1,) * len(axes)
    rstd = 1 / np.sqrt(x.var(axes, keepdims=True) + np.longdouble(eps))
    xhat = (x - x.mean(axes, keepdims=True)) * rstd
    scale = np.longdouble(1) if weight is None else weight.reshape(per_channel)
    z = xhat * scale + (0 if bias is None else bias.reshape(per_channel)) + (0 if residual is None else residual)
    slope = np.longdouble({"none": 1.0, "relu": 0.0, "leaky_relu": negative_slope}[activation])
    factor = np.where(z > 0, np.longdouble(1), slope)
    g = grad.numpy().astype(np.longdouble) * factor
    dx = scale * rstd * (g - g.mean(axes, keepdims=True) - xhat * (g * xhat).mean(axes, keepdims=True))
    results = [z * factor, dx]
    if weight is not None:
        results += [(g * xhat).sum((0, *axes)), g.sum((0, *axes))]
    if residual is not None:
        results.append(g)
    return [torch.from_numpy(r.astype(np.float64)) for r in results]


def terms(name: str, inputs: list[Tensor | None], grad: Tensor) -> float:
    """The size of the numbers that are added up to the named result, which can be far below them.

    For a sum over all pixels it is the 2-norm: each summand is rounded once, and independent roundings add up so.
    """
    x, weight, bias, residual = (None if t is None else t.double() for t in inputs)
    axes = tuple(range(2, x.ndim))
    grad = grad.double()
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    rstd = (variance + 1e-5).rsqrt()
    xhat = (x - mean) * rstd
    scale = 1.0 if weight is None else weight.abs().max().item()
    if name == "y":
        others = sum(t.abs().max().item() for t in (bias, residual) if t is not None)
        return xhat.abs().max().item() * scale + others
    if name == "dx":
        return grad.abs().max().item() * rstd.max().item() * scale
    if name == "dweight":
        return (grad * xhat).square().sum((0, *axes)).sqrt().max().item()
    if name == "dbias":
        return grad.square().sum((0, *axes)).sqrt().max().item()
    return 0.0


def away_from_the_kink(grad: Tensor, inputs: list[Tensor | None]) -> Tensor:
    """No gradient where rounding decides on which side of zero the activation stands: both sides are right there."""
    x, weight, bias, residual = (None if t is None else t.double() for t in inputs)
    z = reference.instance_norm_act(x, weight, bias, residual=residual, activation="none")
    return grad.masked_fill_(z.abs() < 1e-5, 0)


@pytest.mark.parametrize(("shape", "dtype", "layout"), pairwise(SHAPES, DTYPES, LAYOUTS), ids=str)
def test_forward_and_backward_match_float64(shape, dtype, layout):
    generator = torch.Generator().manual_seed(sum(shape) + LAYOUTS.index(layout))
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    for activation, affine, with_residual in pairwise(ACTIVATIONS, (True, False), (True, False)):
        x = in_layout((3 * draw(*shape) + 1).to(dtype), layout)
        # 16-bit networks keep their affine parameters in float32.
        parameter_dtype = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
        weight, bias = (draw(shape[1]).to(parameter_dtype) for _ in range(2)) if affine else (None, None)
        residual = in_layout(draw(*shape).to(dtype), layout) if with_residual else None
        grad = in_layout(draw(*shape).to(dtype), layout)
        inputs = [x, weight, bias, residual]
        grad = away_from_the_kink(grad, inputs)
        ours = gradients(fused, inputs, grad, activation, 0.1)
        if dtype == torch.float64:
            truth = extended(inputs, grad, activation, 0.1)
        else:
            truth = gradients(
                exact, [None if t is None else t.double() for t in inputs], grad.double(), activation, 0.1
            )
        # torch refuses mixed dtypes on CPU for float16/bfloat16: its own error is that of all-16-bit parameters.
        like = [None if t is None else t.to(dtype) for t in inputs]
        peer = gradients(torch_ops, like, grad, activation, 0.1)
        names = ["y", "dx"] + (["dweight", "dbias"] if affine else []) + (["dresidual"] if with_residual else [])
        assert ours[0].dtype == dtype
        for name, a, t, p in zip(names, ours, truth, peer, strict=True):
            case = f"{name} {activation} affine={affine} residual={with_residual}"
            if name in ("dweight", "dbias") and parameter_dtype != dtype:
                a = a.to(dtype)  # the peer rounds to 16 bit; held to the same rounding here, to float32 elsewhere
            assert_within_budget(a, t, p, case, terms=terms(name, inputs, grad))


def test_memory_format_is_kept():
    x = torch.randn(2, 5, 6, 7)
    assert instance_norm_act(x.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(2, 5, 6, 7, 8).to(memory_format=torch.channels_last_3d).requires_grad_()
    y = instance_norm_act(x)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    (grad,) = torch.autograd.grad(y, x, torch.randn(2, 5, 6, 7, 8))
    assert grad.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_large_mean_does_not_cancel(layout):
    x = in_layout((1e4 + torch.randn(2, 8, 40, 40, generator=torch.Generator().manual_seed(0))), layout)
    truth = reference.instance_norm_act(x.double())
    assert (instance_norm_act(x).double() - truth).abs().max() < 1e-3


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_constant_then_outlying_values_do_not_cancel(layout):
    # A sample of the row as the shift of the sums would fail here: the first half is 0, the second near 1e4.
    x = torch.zeros(1, 3, 200, 100)
    x[:, :, 100:] = 1e4 + torch.randn(1, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    x = in_layout(x, layout)
    truth = reference.instance_norm_act(x.double(), activation="none")
    peer = F.instance_norm(x)
    assert_within_budget(instance_norm_act(x, activation="none"), truth, peer)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_passes_through(layout, activation):
    x = torch.randn(2, 3, 8, 8)
    x[1, 2, 3, 4] = float("nan")
    y = instance_norm_act(in_layout(x, layout), activation=activation)
    assert y[1, 2].isnan().all()
    assert not y[0].isnan().any() and not y[1, :2].isnan().any()


def test_infinite_residual():
    x, residual = torch.randn(1, 1, 40), torch.zeros(1, 1, 40)
    residual[0, 0, 3], residual[0, 0, 4], residual[0, 0, 5] = float("-inf"), float("inf"), float("nan")
    y = instance_norm_act(x, residual=residual, activation="relu")
    assert y[0, 0, 3] == 0 and y[0, 0, 4] == float("inf") and y[0, 0, 5].isnan()


def test_sixteen_bit_rounding_of_every_kind_of_number():
    # Through a residual on a constant row, y is the residual rounded to 16 bit and back: subnormals, ties, overflow.
    for dtype in (torch.float16, torch.bfloat16):
        bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
        residual = bits.view(dtype).reshape(1, 1, -1)
        x = torch.zeros_like(residual)
        y = instance_norm_act(x, residual=residual, activation="none")
        both_nan = y.isnan() & residual.isnan()
        assert ((y == residual) | both_nan).all()


def test_expanded_gradients():
    x = torch.randn(2, 3, 9, 10, requires_grad=True)
    scalar, full = torch.tensor(0.7), torch.full((2, 3, 9, 10), 0.7)
    for grad in (scalar.expand_as(full), full[:, :1].expand_as(full)):
        ours = torch.autograd.grad(instance_norm_act(x), x, grad)[0]
        same = torch.autograd.grad(instance_norm_act(x), x, full)[0]
        torch.testing.assert_close(ours, same, rtol=0, atol=0)


def test_gradient_of_a_channel_slice():
    # What the backward of torch.cat hands over.
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    wide = torch.randn(2, 9, 6, 6)
    ours = torch.autograd.grad(instance_norm_act(x), x, wide[:, 3:7])[0]
    same = torch.autograd.grad(instance_norm_act(x), x, wide[:, 3:7].contiguous())[0]
    torch.testing.assert_close(ours, same, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)], ids=str)
def test_empty_batch(shape):
    x = torch.empty(shape, requires_grad=True)
    weight = torch.ones(shape[1], requires_grad=True)
    y = instance_norm_act(x, weight)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape and (weight.grad == 0).all()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_deterministic_and_independent_of_threads(layout):
    x = in_layout(torch.randn(1, 3, 150, 1000), layout)
    grad = in_layout(torch.randn(1, 3, 150, 1000), layout)
    assert_same_bits(
        for_thread_counts((1, 2, 3, 2, 2), lambda: gradients(fused, [x, None, None, None], grad, "relu", 0.0))
    )


@settings(max_examples=60, deadline=None)
@given(
    spatial=st.lists(st.integers(1, 40), min_size=1, max_size=3).filter(lambda s: 1 < torch.Size(s).numel() < 20_000),
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS[:3]),
    seed=st.integers(0, 2**31),
)
# Over the budget where eight float32 summands a lane came before float64.
@example(spatial=[25, 16], batch=3, channels=1, layout="contiguous", seed=1156341590)
def test_random_shapes(spatial, batch, channels, layout, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, *spatial)
    x, grad, residual = (in_layout(torch.randn(shape, generator=generator), layout) for _ in range(3))
    inputs = [x, torch.randn(channels, generator=generator), torch.randn(channels, generator=generator), residual]
    grad = away_from_the_kink(grad, inputs)
    ours = gradients(fused, inputs, grad, "leaky_relu", 0.01)
    truth = gradients(exact, [t.double() for t in inputs], grad.double(), "leaky_relu", 0.01)
    peer = gradients(torch_ops, inputs, grad, "leaky_relu", 0.01)
    for name, a, t, p in zip(("y", "dx", "dweight", "dbias", "dresidual"), ours, truth, peer, strict=True):
        assert_within_budget(a, t, p, f"{name} {shape}", terms=terms(name, inputs, grad))


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *s: torch.randn(*s, dtype=torch.float64, generator=generator).requires_grad_()  # noqa: E731
    for activation in ACTIVATIONS:
        function = lambda x, w, b, r, act=activation: fused(x, w, b, r, act, 0.1)  # noqa: E731
        assert torch.autograd.gradcheck(function, (draw(2, 3, 4, 3), draw(3), draw(3), draw(2, 3, 4, 3)))
        without = lambda x, act=activation: fused(x, None, None, None, act, 0.1)  # noqa: E731
        assert torch.autograd.gradcheck(without, (draw(2, 3, 7),))


def test_saved_for_backward_is_one_tensor_and_statistics():
    saved: list[Tensor] = []
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    weight, bias = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        instance_norm_act(x, weight, bias)
    large = [t for t in saved if t.numel() == x.numel()]
    assert len(large) == 1 and large[0].data_ptr() == x.data_ptr()
    assert sum(t.numel() for t in saved) == x.numel() + 2 * 4 + 2 * 2 * 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x, weight, bias = in_layout(torch.randn(2, 3, 4, 5), layout), torch.randn(3), torch.randn(3)
    args = (x, weight, bias, torch.randn(2, 3, 4, 5), "relu", 0.0, 1e-5)
    torch.library.opcheck(torch.ops.fastseg.instance_norm_act.default, args)
    y, mean, rstd = torch.ops.fastseg.instance_norm_act(*args)
    for decider in (None, y):
        torch.library.opcheck(
            torch.ops.fastseg.instance_norm_act_backward.default,
            (torch.randn_like(x), x, weight, bias, decider, mean, rstd, "relu", 0.0),
        )


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_compile_without_break_or_recompile(layout):
    torch._dynamo.reset()
    function = torch.compile(
        lambda x, w, r: instance_norm_act(x * 2, w, residual=r).sum(1), fullgraph=True, dynamic=True
    )
    weight = torch.randn(3)
    for size, stance in ((8, "default"), (10, "fail_on_recompile")):
        x, residual = (in_layout(torch.randn(2, 3, size, size + 1), layout).requires_grad_() for _ in range(2))
        with torch.compiler.set_stance(stance):
            y = function(x, weight, residual)
        expected = instance_norm_act(x * 2, weight, residual=residual).sum(1)
        torch.testing.assert_close(y, expected)
        grad = torch.randn_like(y)
        for a, b in zip(
            torch.autograd.grad(y, (x, residual), grad),
            torch.autograd.grad(expected, (x, residual), grad),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


def test_autocast_keeps_sixteen_bit():
    conv = torch.nn.Conv2d(3, 8, 3)
    weight = torch.ones(8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = instance_norm_act(conv(torch.randn(1, 3, 10, 10)), weight, residual=torch.zeros(1, 8, 8, 8))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_double_backward_is_refused():
    x = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(instance_norm_act(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(lambda t: instance_norm_act(t, activation="none"), (x,))


def test_activation_checkpointing():
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    (plain,) = torch.autograd.grad(instance_norm_act(x).square().sum(), x)
    (again,) = torch.autograd.grad(checkpoint(instance_norm_act, x, use_reentrant=False).square().sum(), x)
    assert torch.equal(plain, again)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"x has shape \(2, 3\), expected rank 3, 4 or 5", {"x": torch.randn(2, 3)}),
        (ValueError, r"rank 3, 4 or 5", {"x": torch.randn(1, 1, 1, 1, 1, 2)}),
        (TypeError, r"x is torch.int64, expected float32", {"x": torch.ones(1, 2, 3, dtype=torch.int64)}),
        (TypeError, r"x is torch.complex64", {"x": torch.ones(1, 2, 3, dtype=torch.complex64)}),
        (ValueError, r"weight has shape \(4,\), expected \(3,\)", {"weight": torch.ones(4)}),
        (ValueError, r"bias has shape \(3, 1\), expected \(3,\)", {"bias": torch.ones(3, 1)}),
        (TypeError, r"weight is torch.int64", {"weight": torch.ones(3, dtype=torch.int64)}),
        (ValueError, r"weight is on meta, expected x's device cpu", {"weight": torch.ones(3, device="meta")}),
        (ValueError, r"residual has shape \(2, 3, 1\), expected x's shape", {"residual": torch.ones(2, 3, 1)}),
        (ValueError, r"residual is on meta", {"residual": torch.ones(2, 3, 5, device="meta")}),
        (ValueError, r"activation is 'gelu', expected one of 'none', 'relu'", {"activation": "gelu"}),
        (ValueError, r"negative_slope is -0.1, expected a finite number >= 0", {"negative_slope": -0.1}),
        (ValueError, r"eps is -1e-05, expected a finite number >= 0", {"eps": -1e-5}),
        (ValueError, r"eps is nan", {"eps": float("nan")}),
        (ValueError, r"expected more than one spatial element", {"x": torch.randn(2, 3, 1, 1)}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_errors_name_the_argument(error, message, arguments):
    with pytest.raises(error, match=message):
        instance_norm_act(**{"x": torch.randn(2, 3, 5), **arguments})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "match_float64 or rounding or cancel or nan_passes")
