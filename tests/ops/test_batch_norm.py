"""batch_norm_act on CPU: every layout and dtype against wider arithmetic, running statistics, and the op's contract."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.backends import cpu_batch_norm
from fastseg.ops import batch_norm_act
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
    (2, 1, 1, 1),  # the smallest that has a variance
    (2, 5, 9, 11),
    (1, 33, 17, 19),  # one sample, channels that fill no vector
    (5, 6, 1, 3),  # runs shorter than a vector
    (2, 4, 5, 6, 7),
    (2, 2, 41, 43, 41),  # more than one chunk of a run, a ragged last block
    (3, 70, 1, 3, 430),  # several chunks of pixels in channels-last
)
ACTIVATIONS = ("none", "relu", "leaky_relu")
EPS = 1e-5


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu_batch_norm, "empty_like")
    poison(monkeypatch, cpu_batch_norm, "_statistics")


def torch_ops(x, weight, bias, residual, running, activation, slope, training):
    """What a user writes today."""
    y = F.batch_norm(x, *running, weight, bias, training, 0.3, EPS)
    if residual is not None:
        y = y + residual
    return {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, slope)}[activation](y)


def fused(x, weight, bias, residual, running, activation, slope, training):
    return batch_norm_act(
        x,
        weight,
        bias,
        *running,
        residual=residual,
        activation=activation,
        negative_slope=slope,
        training=training,
        momentum=0.3,
        eps=EPS,
    )


def gradients(function, inputs: list[Tensor | None], grad: Tensor, running: list[Tensor], *args) -> list[Tensor]:
    """y, the gradients of the inputs that are there, and the running statistics afterwards."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    running = [t.clone() for t in running]
    y = function(*leaves, running, *args)
    present = [t for t in leaves if t is not None]
    return [y.detach(), *torch.autograd.grad(y, present, grad.to(y.dtype)), *running]


def extended(inputs, grad, running, activation, slope, training) -> list[Tensor]:
    """The same in NumPy's long double: the truth for float64 inputs."""
    wide = lambda t: None if t is None else t.numpy().astype(np.longdouble)  # noqa: E731
    x, weight, bias, residual = map(wide, inputs)
    axes = (0, *range(2, x.ndim))
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = (wide(t).reshape(per_channel) for t in running)
    after = [wide(t) for t in running]
    if training:
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        new = (x.mean(axes), x.var(axes, ddof=1))
        after = [np.longdouble(0.7) * old + np.longdouble(0.3) * one for old, one in zip(after, new, strict=True)]
    rstd = 1 / np.sqrt(variance + np.longdouble(EPS))
    xhat = (x - mean) * rstd
    scale = np.longdouble(1) if weight is None else weight.reshape(per_channel)
    z = xhat * scale + (0 if bias is None else bias.reshape(per_channel)) + (0 if residual is None else residual)
    low = np.longdouble({"none": 1.0, "relu": 0.0, "leaky_relu": slope}[activation])
    factor = np.where(z > 0, np.longdouble(1), low)
    g = wide(grad) * factor
    dx = scale * rstd * g
    if training:
        dx = dx - scale * rstd * (g.mean(axes, keepdims=True) + xhat * (g * xhat).mean(axes, keepdims=True))
    results = [z * factor, dx]
    if weight is not None:
        results += [(g * xhat).sum(axes), g.sum(axes)]
    if residual is not None:
        results.append(g)
    return [torch.from_numpy(r.astype(np.float64)) for r in (*results, *after)]


def terms(name: str, inputs: list[Tensor | None], grad: Tensor, running: list[Tensor], training: bool) -> float:
    """The size of the numbers that are added up to the named result: see tests/ops/test_norm.py."""
    x, weight, bias, residual = (None if t is None else t.double() for t in inputs)
    axes = (0, *range(2, x.ndim))
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance = (t.double().view(per_channel) for t in running)
    if training:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    rstd = (variance + EPS).rsqrt()
    xhat = (x - mean) * rstd
    scale = 1.0 if weight is None else weight.abs().max().item()
    if name == "y":
        others = sum(t.abs().max().item() for t in (bias, residual) if t is not None)
        return xhat.abs().max().item() * scale + others
    if name == "dx":
        return grad.double().abs().max().item() * rstd.max().item() * scale
    if name == "dweight":
        return (grad.double() * xhat).square().sum(axes).sqrt().max().item()
    if name == "dbias":
        return grad.double().square().sum(axes).sqrt().max().item()
    if name.startswith("running"):
        return (running[0] if name == "running_mean" else running[1]).abs().max().item() + x.square().max().item()
    return 0.0


def away_from_the_kink(grad: Tensor, inputs, running, training: bool) -> Tensor:
    """No gradient where rounding decides on which side of zero the activation stands: both sides are right there."""
    x, weight, bias, residual = (None if t is None else t.double() for t in inputs)
    z = reference.batch_norm_act(
        x,
        weight,
        bias,
        *(t.double() for t in running),
        residual=residual,
        activation="none",
        training=training,
        momentum=0.0,
    )
    return grad.masked_fill_(z.abs() < 1e-5, 0)


def check(inputs, grad, running, activation: str, training: bool, case: str = "") -> None:
    """Everything within twice torch's own error; torch mixes 16-bit x with float32 parameters as we do."""
    grad = away_from_the_kink(grad, inputs, running, training)
    ours = gradients(fused, inputs, grad, running, activation, 0.1, training)
    if grad.dtype == torch.float64:
        truth = extended(inputs, grad, running, activation, 0.1, training)
    else:
        doubles = [None if t is None else t.double() for t in inputs], grad.double(), [t.double() for t in running]
        truth = gradients(torch_ops, *doubles, activation, 0.1, training)
    peer = gradients(torch_ops, inputs, grad, running, activation, 0.1, training)
    names = ["y", "dx"] + ([] if inputs[1] is None else ["dweight", "dbias"])
    names += ([] if inputs[3] is None else ["dresidual"]) + ["running_mean", "running_var"]
    for name, a, t, p in zip(names, ours, truth, peer, strict=True):
        assert a.dtype == p.dtype
        size = terms(name, inputs, grad, running, training)
        assert_within_budget(a, t, p, f"{name} {activation} training={training} {case}", terms=size)


@pytest.mark.parametrize(("shape", "dtype", "layout"), pairwise(SHAPES, DTYPES, LAYOUTS), ids=str)
def test_forward_and_backward_match_wider_arithmetic(shape, dtype, layout):
    generator = torch.Generator().manual_seed(sum(shape) + LAYOUTS.index(layout))
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    parameter_dtype = torch.promote_types(dtype, torch.float32)
    for activation, affine, with_residual, training in pairwise(
        ACTIVATIONS, (True, False), (True, False), (True, False)
    ):
        x = in_layout((3 * draw(*shape) + 1).to(dtype), layout)
        weight, bias = (draw(shape[1]).to(parameter_dtype) for _ in range(2)) if affine else (None, None)
        residual = in_layout(draw(*shape).to(dtype), layout) if with_residual else None
        grad = in_layout(draw(*shape).to(dtype), layout)
        running = [draw(shape[1]).to(parameter_dtype), (draw(shape[1]).square() + 0.5).to(parameter_dtype)]
        check([x, weight, bias, residual], grad, running, activation, training, f"residual={with_residual}")


@settings(max_examples=60, deadline=None)
@given(
    spatial=st.lists(st.integers(1, 40), min_size=2, max_size=3).filter(lambda s: torch.Size(s).numel() < 10_000),
    batch=st.integers(2, 6),
    channels=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS[:3]),
    training=st.booleans(),
    seed=st.integers(0, 2**31),
)
# Over the budget where eight float32 summands a lane, and 128 squares a column, came before float64.
@example(spatial=[4, 3, 4], batch=2, channels=29, layout="channel_slice", training=True, seed=1096051418)
@example(spatial=[2, 4, 3], batch=4, channels=1, layout="channels_last", training=False, seed=1238470323)
def test_random_shapes(spatial, batch, channels, layout, training, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, *spatial)
    x, grad, residual = (in_layout(torch.randn(shape, generator=generator), layout) for _ in range(3))
    parameters = [torch.randn(channels, generator=generator) for _ in range(2)]
    running = [torch.randn(channels, generator=generator), torch.rand(channels, generator=generator) + 0.5]
    check([x, *parameters, residual], grad, running, "leaky_relu", training, str(shape))


def test_samples_that_do_not_follow_each_other():
    wide = in_layout(torch.randn(6, 5, 4, 3), "channels_last")
    for x in (wide[::2], wide[1:], wide.permute(2, 1, 0, 3), wide[:, 1:4, ::2], wide[:1].expand(3, -1, -1, -1)):
        y = batch_norm_act(x, training=True)
        torch.testing.assert_close(y, reference.batch_norm_act(x.contiguous(), training=True))
    assert batch_norm_act(wide[::2], training=True).is_contiguous(memory_format=torch.channels_last)


def test_memory_format_is_kept():
    for shape, memory in (((2, 5, 6, 7), torch.channels_last), ((2, 5, 6, 7, 8), torch.channels_last_3d)):
        x = torch.randn(shape).to(memory_format=memory).requires_grad_()
        y = batch_norm_act(x, training=True)
        assert y.is_contiguous(memory_format=memory)
        (grad,) = torch.autograd.grad(y, x, torch.randn(shape))
        assert grad.is_contiguous(memory_format=memory)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_means_far_from_zero_and_from_each_other_do_not_cancel(layout):
    x = 1e4 + torch.randn(2, 8, 40, 40, generator=torch.Generator().manual_seed(0))
    x[1] += 1e3  # a variance mostly between the samples
    x = in_layout(x, layout)
    truth = reference.batch_norm_act(x.double(), activation="none", training=True)
    peer = F.batch_norm(x, None, None, training=True)
    assert_within_budget(batch_norm_act(x, activation="none", training=True), truth, peer)
    x[1] -= 1e3
    truth = reference.batch_norm_act(x.double(), training=True)
    assert (batch_norm_act(x, training=True).double() - truth).abs().max() < 1e-3


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_passes_through(layout, activation):
    x = torch.randn(2, 3, 8, 8)
    x[1, 2, 3, 4] = float("nan")
    y = batch_norm_act(in_layout(x, layout), activation=activation, training=True)
    assert y[:, 2].isnan().all() and not y[:, :2].isnan().any()
    y = batch_norm_act(in_layout(x, layout), None, None, torch.zeros(3), torch.ones(3), activation=activation)
    assert y[1, 2, 3, 4].isnan() and y.isnan().sum() == 1


def test_expanded_and_sliced_gradients():
    x = torch.randn(2, 3, 9, 10, requires_grad=True)
    wide = torch.randn(2, 9, 9, 10)
    for grad in (torch.tensor(0.7).expand(2, 3, 9, 10), wide[:, :1].expand(2, 3, 9, 10), wide[:, 3:6]):
        ours = torch.autograd.grad(batch_norm_act(x, training=True), x, grad)[0]
        same = torch.autograd.grad(batch_norm_act(x, training=True), x, grad.contiguous())[0]
        assert torch.equal(ours, same)


@pytest.mark.parametrize("backend", ("cpu", "reference"))
@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)], ids=str)
def test_empty_batch(shape, training, backend):
    x = torch.empty(shape, requires_grad=True)
    weight = torch.ones(shape[1], requires_grad=True)
    running = [torch.full(shape[1:2], 0.5), torch.full(shape[1:2], 2.0)]
    with fastseg.backend(backend):
        y = batch_norm_act(x, weight, None, *running, training=training)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape and (weight.grad == 0).all()
    assert (running[0] == 0.5).all() and (running[1] == 2).all()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_deterministic_and_independent_of_threads(layout):
    x, grad = (in_layout(torch.randn(2, 3, 150, 500), layout) for _ in range(2))
    running = [torch.zeros(3), torch.ones(3)]
    inputs = [x, None, None, None]
    assert_same_bits(
        for_thread_counts((1, 2, 3, 2, 2), lambda: gradients(fused, inputs, grad, running, "relu", 0.0, True))
    )


def test_gradcheck():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *s: torch.randn(*s, dtype=torch.float64, generator=generator).requires_grad_()  # noqa: E731
    running = [torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)]
    for activation, training in itertools.product(ACTIVATIONS, (True, False)):
        function = lambda x, w, b, r, a=activation, t=training: fused(x, w, b, r, running, a, 0.1, t)  # noqa: E731
        assert torch.autograd.gradcheck(function, (draw(2, 3, 4, 3), draw(3), draw(3), draw(2, 3, 4, 3)))
        without = lambda x, a=activation, t=training: fused(x, None, None, None, running, a, 0.1, t)  # noqa: E731
        assert torch.autograd.gradcheck(without, (draw(2, 3, 1, 7),))


@pytest.mark.parametrize("training", (True, False))
def test_saved_for_backward_is_one_tensor_and_statistics(training):
    saved: list[Tensor] = []
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    weight, bias = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        batch_norm_act(x, weight, bias, torch.zeros(4), torch.ones(4), training=training)
    large = [t for t in saved if t.numel() == x.numel()]
    assert len(large) == 1 and large[0].data_ptr() == x.data_ptr()
    assert sum(t.numel() for t in saved) == x.numel() + 4 * 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout):
    x, weight, bias = in_layout(torch.randn(2, 3, 4, 5), layout), torch.randn(3), torch.randn(3)
    residual = torch.randn(2, 3, 4, 5)
    ops = torch.ops.fastseg
    torch.library.opcheck(ops.batch_norm_act.default, (x, weight, bias, residual, "relu", 0.0, EPS))
    y, mean, rstd, _ = ops.batch_norm_act(x, weight, bias, residual, "relu", 0.0, EPS)
    torch.library.opcheck(ops.batch_norm_act_apply.default, (x, mean, rstd, weight, bias, residual, "relu", 0.0))
    for decider, fixed in ((None, False), (y, True)):
        args = (torch.randn_like(x), x, weight, bias, decider, mean, rstd, "relu", 0.0, fixed)
        torch.library.opcheck(ops.batch_norm_act_backward.default, args)


@pytest.mark.parametrize(("layout", "training"), (("contiguous", True), ("channels_last", True), ("contiguous", False)))
def test_compile_without_break_or_recompile(layout, training):
    torch._dynamo.reset()

    def function(x, residual, weight, mean, var):
        return batch_norm_act(x * 2, weight, None, mean, var, residual=residual, training=training).sum(1)

    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    weight = torch.randn(3)
    for size, stance in ((8, "default"), (10, "fail_on_recompile")):
        x, residual = (in_layout(torch.randn(2, 3, size, size + 1), layout).requires_grad_() for _ in range(2))
        running, expected_running = ([torch.zeros(3), torch.ones(3)] for _ in range(2))
        with torch.compiler.set_stance(stance):
            y = compiled(x, residual, weight, *running)
        expected = function(x, residual, weight, *expected_running)
        torch.testing.assert_close([y, *running], [expected, *expected_running])
        grad = torch.randn_like(y)
        ours, theirs = (torch.autograd.grad(result, (x, residual), grad) for result in (y, expected))
        torch.testing.assert_close(ours, theirs)


def test_autocast_keeps_sixteen_bit():
    conv = torch.nn.Conv2d(3, 8, 3)
    weight = torch.ones(8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = batch_norm_act(conv(torch.randn(1, 3, 10, 10)), weight, residual=torch.zeros(1, 8, 8, 8), training=True)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("backend", ("cpu", "reference"))
def test_running_statistics_of_another_dtype(backend):
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    running = [torch.zeros(3), torch.ones(3)]
    with fastseg.backend(backend):
        batch_norm_act(x, None, None, *running, training=True, momentum=1.0)
        torch.testing.assert_close(running[0].double(), x.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(running[1].double(), x.var((0, 2, 3)), rtol=1e-6, atol=1e-6)
        y = batch_norm_act(x.half(), None, None, *(t.half() for t in running), activation="none")
    assert y.dtype == torch.float16 and y.float().mean().abs() < 1e-2


@pytest.mark.parametrize("training", (True, False))
def test_double_backward_is_refused(training):
    x = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    given = (None, None) if training else (torch.zeros(2).double(), torch.ones(2).double())
    function = lambda t: batch_norm_act(t, None, None, *given, activation="none", training=training)  # noqa: E731
    (grad,) = torch.autograd.grad(function(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(function, (x,))


def test_explain():
    assert "cpu        runs" in fastseg.explain("batch_norm_act", torch.randn(1, 2, 3, 4))
    with fastseg.backend("triton"), pytest.raises(fastseg.BackendError, match="has no such kernel"):
        batch_norm_act(torch.randn(1, 2, 3, 4), training=True)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"x has shape \(2, 3, 5\), expected rank 4 or 5", {"x": torch.randn(2, 3, 5)}),
        (TypeError, r"x is torch.int64, expected float32", {"x": torch.ones(1, 3, 2, 2, dtype=torch.int64)}),
        (ValueError, r"weight has shape \(4,\), expected \(3,\)", {"weight": torch.ones(4)}),
        (ValueError, r"bias has shape \(3, 1\), expected \(3,\)", {"bias": torch.ones(3, 1)}),
        (ValueError, r"running_var has shape \(2,\)", {"running_var": torch.ones(2)}),
        (ValueError, r"running_mean is on meta", {"running_mean": torch.ones(3, device="meta")}),
        (ValueError, r"residual has shape \(2, 3, 1, 1\), expected x's", {"residual": torch.ones(2, 3, 1, 1)}),
        (ValueError, r"activation is 'gelu', expected one of", {"activation": "gelu"}),
        (ValueError, r"negative_slope is -0.1, expected a finite number >= 0", {"negative_slope": -0.1}),
        (ValueError, r"momentum is nan", {"momentum": float("nan")}),
        (ValueError, r"eps is -1e-05, expected a finite number >= 0", {"eps": -1e-5}),
        (ValueError, r"running_mean is None.* both where training is False", {"training": False}),
        (ValueError, r"running_var is None.* or neither", {"running_mean": torch.ones(3)}),
        (ValueError, r"more than one element a channel", {"x": torch.randn(1, 3, 1, 1)}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_errors_name_the_argument(error, message, arguments):
    with pytest.raises(error, match=message):
        batch_norm_act(**{"x": torch.randn(2, 3, 5, 5), "training": True, **arguments})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "wider_arithmetic or cancel or nan_passes")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("weight", [1.0, -0.7])
def test_constant_channels_pass_what_relu_passes(layout, weight):
    """At the mean, with a bias of zero, rounding must not let gradients through that forward's zero stops."""
    x = in_layout(torch.randn(32)[:, None, None].expand(4, 32, 8, 16).contiguous(), layout).requires_grad_()
    scale, bias = torch.full((32,), weight), torch.zeros(32, requires_grad=True)
    y = batch_norm_act(x, scale, bias, activation="relu", training=True)
    y.sum().backward()
    assert torch.equal(bias.grad, (y > 0).sum((0, 2, 3)).float())
