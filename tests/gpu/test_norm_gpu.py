"""instance_norm_act on a GPU: both kernels against the float64 reference, and what a launch owes to CUDA.

The cases, the truth and the error budget are those of the CPU (tests/ops/test_norm.py), on other tensors.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastseg
from fastseg.backends.views import layout_of
from fastseg.ops import instance_norm_act
from tests.ops.test_norm import (
    ACTIVATIONS,
    SHAPES,
    away_from_the_kink,
    exact,
    extended,
    fused,
    gradients,
    terms,
    torch_ops,
)
from tests.support import DTYPES, LAYOUTS, assert_within_budget, in_layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

DEVICE = "cuda"
GIB = 2**30

#: One for each way in which rows are held: in registers, shared memory, a cluster's shared memory, streamed.
SIZES = {
    "8^3": (2, 5, 8, 8, 8),
    "16^3": (2, 5, 16, 16, 16),
    "64^3": (1, 3, 64, 64, 64),
    "96^3": (1, 3, 96, 96, 96),
    "odd": (1, 2, 161, 127, 129),
    "many rows": (70, 1000, 3, 3),
}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Drawn on the CPU: the same numbers on every card."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def laid_out(t: Tensor, layout: str) -> Tensor:
    with torch.device(t.device):  # for what in_layout itself allocates
        return in_layout(t, layout)


def skip_what_cuda_refuses(forced: str, x: Tensor) -> None:
    """The CUDA C++ kernels read rows only; a forced backend must say so."""
    if forced == "cuda" and layout_of(x) != "rows":
        with pytest.raises(fastseg.BackendError, match="reads rows"):
            instance_norm_act(x)
        pytest.skip("refused, as it should be")


def need_memory(nbytes: int) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < nbytes:
        pytest.skip(f"needs {nbytes / GIB:.0f} GiB of free GPU memory, {free / GIB:.0f} GiB are there")


def check(inputs: list[Tensor | None], grad: Tensor, activation: str, case: str) -> None:
    """y and every gradient against float64, within twice the error of torch's own CUDA ops."""
    x, weight, _, residual = inputs
    assert x is not None
    dtype = x.dtype
    grad = away_from_the_kink(grad, inputs)
    ours = gradients(fused, inputs, grad, activation, 0.1)
    if dtype == torch.float64:
        truth = extended([None if t is None else t.cpu() for t in inputs], grad.cpu(), activation, 0.1)
        truth = [t.to(DEVICE) for t in truth]
    else:
        double = [None if t is None else t.double() for t in inputs]
        truth = gradients(exact, double, grad.double(), activation, 0.1)
    peer = gradients(torch_ops, [None if t is None else t.to(dtype) for t in inputs], grad, activation, 0.1)
    names = ["y", "dx", *(["dweight", "dbias"] if weight is not None else [])]
    names += ["dresidual"] if residual is not None else []
    assert ours[0].dtype == dtype
    assert ours[0].stride() == torch.empty_like(x if layout_of(x) else x.contiguous()).stride()
    for name, a, t, p in zip(names, ours, truth, peer, strict=True):
        # Parameters of 16-bit inputs are float32; the peer's are rounded to 16 bit, so ours are held to that.
        assert_within_budget(a.to(dtype), t, p, f"{name} {case}", terms=terms(name, inputs, grad))


def operands(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, affine: bool, with_residual: bool
) -> tuple[list[Tensor | None], Tensor]:
    x = laid_out((3 * draw(*shape, seed=1) + 1).to(dtype), layout)
    parameter_dtype = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    # Numbers that 16-bit types hold exactly: the peer, whose parameters are 16-bit, computes the same function.
    parameters = [draw(shape[1], seed=seed).bfloat16().half().to(parameter_dtype) for seed in (2, 3)]
    weight, bias = parameters if affine else (None, None)
    residual = laid_out(draw(*shape, seed=4).to(dtype), layout) if with_residual else None
    return [x, weight, bias, residual], laid_out(draw(*shape, seed=5).to(dtype), layout)


# ---- numbers


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_match_float64(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, forced: str, poisoned: None
) -> None:
    for activation, affine, with_residual in itertools.product(ACTIVATIONS, (True, False), (True, False)):
        inputs, grad = operands(shape, dtype, layout, affine, with_residual)
        skip_what_cuda_refuses(forced, inputs[0])
        check(inputs, grad, activation, f"{activation} affine={affine} residual={with_residual}")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_every_way_to_hold_a_row(size: str, dtype: torch.dtype, layout: str, forced: str, poisoned: None) -> None:
    for activation, with_residual in (("leaky_relu", False), ("relu", True)):
        inputs, grad = operands(SIZES[size], dtype, layout, True, with_residual)
        skip_what_cuda_refuses(forced, inputs[0])
        check(inputs, grad, activation, f"{size} {activation} residual={with_residual}")


@pytest.mark.parametrize("size", ["8^3", "16^3", "64^3"])
def test_gradient_and_residual_in_other_layouts(size: str, forced: str, poisoned: None) -> None:
    inputs, grad = operands(SIZES[size], torch.float32, "contiguous", True, True)
    others = [laid_out(grad, layout) for layout in LAYOUTS] + [grad[:1, :1].expand_as(grad)]
    for other in others:
        for residual in (laid_out(inputs[3], "channels_last"), inputs[3]):
            check([*inputs[:3], residual], other.clone() if 0 in other.stride() else other, "relu", size)
    scalar = torch.tensor(0.7, device=DEVICE).expand_as(grad)
    leaf = inputs[0].requires_grad_()
    expanded, full = (torch.autograd.grad(instance_norm_act(leaf), leaf, g)[0] for g in (scalar, scalar.contiguous()))
    assert torch.equal(expanded, full)


def test_unaligned_rows(forced: str, poisoned: None) -> None:
    """Rows that begin on no 16-byte boundary, where the packs of a fast path would fault."""
    shape = (2, 3, 16, 17)
    elements = torch.Size(shape).numel()
    for dtype, offset in itertools.product(DTYPES, (1, 2, 3)):
        inputs, grad = operands(shape, dtype, "contiguous", True, True)
        shifted = [torch.zeros(elements + offset, dtype=dtype, device=DEVICE)[offset:].view(shape) for _ in range(3)]
        for to, source in zip(shifted, (inputs[0], inputs[3], grad), strict=True):
            to.copy_(source)
        check([shifted[0], *inputs[1:3], shifted[1]], shifted[2], "leaky_relu", f"{dtype} offset {offset}")


def test_large_mean_does_not_cancel(forced: str) -> None:
    for shape in SIZES.values():
        x = 1e4 + draw(*shape)
        truth = exact(x.double(), None, None, None, "none", 0.0)
        assert (instance_norm_act(x, activation="none").double() - truth).abs().max() < 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_passes_through(activation: str, forced: str) -> None:
    for shape in SIZES.values():
        x = draw(*shape)
        x[0, 1].view(-1)[-1] = float("nan")
        y = instance_norm_act(x, activation=activation)
        assert y[0, 1].isnan().all() and not y[0, 0].isnan().any() and not y[1:].isnan().any()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)], ids=str)
def test_empty_batch(shape: tuple[int, ...], forced: str) -> None:
    x = torch.empty(shape, device=DEVICE, requires_grad=True)
    weight = torch.ones(shape[1], device=DEVICE, requires_grad=True)
    instance_norm_act(x, weight).sum().backward()
    assert x.grad is not None and x.grad.shape == shape
    assert weight.grad is not None and (weight.grad == 0).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", SIZES)
def test_same_bits_every_time(size: str, layout: str, forced: str) -> None:
    inputs, grad = operands(SIZES[size], torch.float32, layout, True, True)
    skip_what_cuda_refuses(forced, inputs[0])
    first, second = (gradients(fused, inputs, grad, "leaky_relu", 0.1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "shape", [(1, 4, 600, 1024, 1024), (4, 150_000, 4097)], ids=["offset within a row", "offset of a row"]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_than_two_to_the_31_elements(shape: tuple[int, ...], layout: str, forced: str) -> None:
    """The last row, which lies beyond 2^31, against float64."""
    assert torch.Size(shape).numel() > 2**31
    need_memory(56 * GIB)
    x = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE)
    if layout == "channels_last":
        x = torch.empty(shape[0], *shape[2:], shape[1], dtype=torch.bfloat16, device=DEVICE).movedim(-1, 1)
    skip_what_cuda_refuses(forced, x)
    x.normal_(generator=torch.Generator(DEVICE).manual_seed(0)).requires_grad_()
    grad = torch.randn(1, 1, *shape[2:], dtype=torch.bfloat16, device=DEVICE).expand(shape)
    y = instance_norm_act(x, activation="none")
    (dx,) = torch.autograd.grad(y, x, grad)
    y = y.detach()
    assert not y[-1, -1].isnan().any() and not dx[-1, -1].isnan().any()
    last = x.detach()[-1:, -1:].double()
    variance, mean = torch.var_mean(last, correction=0)
    rstd = (variance + 1e-5).rsqrt()
    xhat = last.sub_(mean).mul_(rstd)
    rounding = {"rtol": 2**-8, "atol": 1e-4}
    torch.testing.assert_close(y[-1, -1, -1].double(), xhat[0, 0, -1], **rounding)
    g = grad[-1:, -1:].double()
    slope = (g * xhat).mean()
    expected = rstd * (g[0, 0, -1] - g.mean() - xhat[0, 0, -1] * slope)
    torch.testing.assert_close(dx[-1, -1, -1].double(), expected, **rounding)


# ---- streams, graphs, devices


@pytest.mark.parametrize("size", ["8^3", "16^3", "64^3", "odd"])
def test_runs_on_the_current_stream(size: str, forced: str) -> None:
    """On a side stream whose input is late: a kernel on another stream would read zeros."""
    inputs, grad = operands(SIZES[size], torch.float32, "contiguous", True, True)
    expected = gradients(fused, inputs, grad, "relu", 0.0)
    late = [torch.zeros_like(t) for t in (inputs[0], inputs[3], grad)]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # about 0.1 s
        for to, source in zip(late, (inputs[0], inputs[3], grad), strict=True):
            to.copy_(source)
        found = gradients(fused, [late[0], *inputs[1:3], late[1]], late[2], "relu", 0.0)
        assert not stream.query(), "the call waited for the GPU"
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", ["8^3", "64^3", "odd"])
def test_two_streams_at_once(size: str, forced: str) -> None:
    """Neither stream may write into what the other one works with, as a shared workspace would."""
    shape = SIZES[size]
    sets = [([draw(*shape, seed=seed), None, None, None], draw(*shape, seed=seed + 10)) for seed in (1, 2)]
    expected = [gradients(fused, inputs, grad, "leaky_relu", 0.1) for inputs, grad in sets]
    streams = [torch.cuda.Stream() for _ in sets]
    torch.cuda.synchronize()
    found: list[list[list[Tensor]]] = [[], []]
    for _ in range(20):
        for i, (stream, (inputs, grad)) in enumerate(zip(streams, sets, strict=True)):
            with torch.cuda.stream(stream):
                found[i].append(gradients(fused, inputs, grad, "leaky_relu", 0.1))
    torch.cuda.synchronize()
    for i, results in enumerate(found):
        for result in results:
            assert all(torch.equal(a, b) for a, b in zip(result, expected[i], strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_cuda_graph(size: str, forced: str) -> None:
    """Both directions captured once, replayed with other numbers in the same memory."""
    inputs, grad = operands(SIZES[size], torch.float32, "contiguous", True, True)
    x = inputs[0]
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(3):
            gradients(fused, inputs, grad, "leaky_relu", 0.1)
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(fused, inputs, grad, "leaky_relu", 0.1)
    for seed in (20, 21):
        x.copy_(draw(*x.shape, seed=seed))
        grad.copy_(draw(*x.shape, seed=seed + 10))
        expected = gradients(fused, inputs, grad, "leaky_relu", 0.1)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_device_of_x(forced: str) -> None:
    inputs, grad = operands(SIZES["64^3"], torch.float32, "contiguous", True, True)
    expected = gradients(fused, inputs, grad, "relu", 0.0)
    other = torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    found = gradients(fused, [t.to(other) for t in inputs], grad.to(other), "relu", 0.0)
    assert torch.cuda.current_device() == 0
    for a, b in zip(found, expected, strict=True):
        assert a.device == other
        torch.testing.assert_close(a.cpu(), b.cpu())


def test_out_of_memory_leaves_the_op_usable(forced: str) -> None:
    x = draw(1, 4, 256, 256, 256)  # 256 MiB: no block that the allocator keeps is as large
    small = draw(2, 3, 8, 8, 8)
    expected = instance_norm_act(small)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**25) / total)
        for needs_gradient in (False, True):
            with pytest.raises(torch.OutOfMemoryError):
                instance_norm_act(x.detach().requires_grad_(needs_gradient))
        assert torch.equal(instance_norm_act(small), expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    y = instance_norm_act(x)
    torch.testing.assert_close(y, F.leaky_relu(F.instance_norm(x), 0.01), rtol=1e-4, atol=1e-4)


# ---- torch's contracts


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compile_without_break_or_recompile(layout: str, forced: str) -> None:
    torch._dynamo.reset()
    function = torch.compile(
        lambda x, w, r: instance_norm_act(x * 2, w, residual=r).sum(1), fullgraph=True, dynamic=True
    )
    weight = draw(3)
    for size, stance in ((8, "default"), (10, "fail_on_recompile")):
        x, residual = (laid_out(draw(2, 3, size, size + 1, seed=seed), layout).requires_grad_() for seed in (1, 2))
        skip_what_cuda_refuses(forced, x)
        with torch.compiler.set_stance(stance):
            y = function(x, weight, residual)
        expected = instance_norm_act(x * 2, weight, residual=residual).sum(1)
        torch.testing.assert_close(y, expected)
        grad = torch.randn_like(y)
        found, wanted = (torch.autograd.grad(result, (x, residual), grad) for result in (y, expected))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout: str, forced: str) -> None:
    x, weight, bias = laid_out(draw(2, 3, 4, 5), layout), draw(3), draw(3)
    skip_what_cuda_refuses(forced, x)
    args = (x, weight, bias, draw(2, 3, 4, 5, seed=1), "relu", 0.0, 1e-5)
    torch.library.opcheck(torch.ops.fastseg.instance_norm_act.default, args)
    y, mean, rstd = torch.ops.fastseg.instance_norm_act(*args)
    for decider in (None, y):
        torch.library.opcheck(
            torch.ops.fastseg.instance_norm_act_backward.default,
            (torch.randn_like(x), x, weight, bias, decider, mean, rstd, "relu", 0.0),
        )


def test_autocast_keeps_sixteen_bit(forced: str) -> None:
    convolution = torch.nn.Conv2d(3, 8, 3, device=DEVICE)
    weight = torch.ones(8, device=DEVICE, requires_grad=True)
    for dtype in (torch.bfloat16, torch.float16):
        weight.grad = None
        with torch.autocast(DEVICE, dtype=dtype):
            y = instance_norm_act(convolution(draw(1, 3, 10, 10)).contiguous(), weight)
        assert y.dtype == dtype
        y.float().sum().backward()
        assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", ["weight", "bias", "residual"])
def test_tensors_on_two_devices_are_refused(name: str, forced: str) -> None:
    x = draw(2, 3, 4, 5)
    other = torch.randn(2, 3, 4, 5) if name == "residual" else torch.randn(3)
    with pytest.raises(ValueError, match=f"{name} is on cpu, expected x's device cuda:0"):
        instance_norm_act(x, **{name: other})
