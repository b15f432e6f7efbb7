"""The depthwise ops on CPU: every layout and dtype against wider arithmetic, and the contract of the ops."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import ops
from fastseg.backends import cpu
from fastseg.ops import depthwise_registered as registered
from tests.ops.depthwise_cases import (
    CASES,
    Case,
    Results,
    extended,
    extended_transposed,
    gradients,
    square,
    torch_conv,
)
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


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    for name in ("new_output", "empty_like", "statistics_like"):
        poison(monkeypatch, cpu, name)


def conv(case: Case):
    return {2: ops.depthwise_conv2d, 3: ops.depthwise_conv3d}[len(case.image)]


def run(function, inputs: list[Tensor], layout: str = "contiguous") -> Results:
    x, weight, bias, grad = inputs
    leaves = [
        in_layout(x, layout).detach().requires_grad_(),
        weight.clone().requires_grad_(),
        bias.clone().requires_grad_(),
    ]
    return gradients(function(*leaves), leaves, in_layout(grad, layout))


def check(case: Case, dtype: torch.dtype, layout: str = "contiguous", seed: int = 0) -> None:
    inputs = case.inputs(dtype, seed)
    fused = run(lambda x, w, b: conv(case)(x, w, b, **case.geometry), inputs, layout)
    exact, size = extended(case, inputs), extended(case, inputs, magnitude=True)
    peer = run(lambda x, w, b: torch_conv(case, x, w, b), inputs)
    for name, actual, truth, theirs, terms in zip(Results._fields, fused, exact, peer, size, strict=True):
        assert not actual.isnan().any(), name
        assert_within_budget(actual, truth, theirs, name, terms=terms.max().item())


@pytest.mark.parametrize(
    ("dtype", "layout", "case"),
    pairwise((torch.float32, torch.float64), ("contiguous", "channels_last"), CASES),
    ids=str,
)
def test_against_wider_arithmetic(case, layout, dtype):
    check(case, dtype, layout)


@pytest.mark.parametrize(
    ("case", "dtype", "layout"),
    pairwise((square(2, 19, 3), square(3, 10, 5, stride=2), square(2, 18, 7, multiplier=2)), DTYPES, LAYOUTS),
    ids=str,
)
def test_layouts_and_dtypes(case, layout, dtype):
    check(case, dtype, layout)


@st.composite
def cases(draw):
    rank = draw(st.integers(2, 3))
    axis = [
        (
            draw(st.integers(1, 24 if rank == 2 else 9)),
            draw(st.integers(1, 7)),
            draw(st.integers(1, 3)),
            draw(st.integers(0, 8)),
            draw(st.integers(1, 5)),
        )
        for _ in range(rank)
    ]
    image, kernel, stride, padding, dilation = zip(*axis, strict=True)
    return Case(
        image,
        kernel,
        stride,
        padding,
        dilation,
        batch=draw(st.integers(1, 3)),
        channels=draw(st.integers(1, 20)),
        multiplier=draw(st.integers(1, 3)),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 1000))
def test_any_geometry(case, dtype, layout, seed):
    if min(case.size) >= 1:
        check(case, dtype, layout, seed)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("rank,kernel", ((2, 3), (2, 4), (2, (1, 6)), (3, 5), (3, (2, 3, 4))))
def test_padding_same_is_torchs(layout, rank, kernel):
    kernel = (kernel,) * rank if isinstance(kernel, int) else kernel
    case = Case((13,) * rank, kernel, (1,) * rank, (0,) * rank, (2,) * rank)
    x, weight, bias, _ = case.inputs(torch.float64)
    y = conv(case)(in_layout(x, layout), weight, bias, padding="same", dilation=2)
    theirs = {2: F.conv2d, 3: F.conv3d}[rank](x, weight, bias, padding="same", dilation=2, groups=5)
    assert y.shape == x.shape
    torch.testing.assert_close(y, theirs)
    valid = conv(case)(x, weight, bias, padding="valid", dilation=1)
    torch.testing.assert_close(valid, conv(case)(x, weight, bias))


@pytest.mark.parametrize(("rank", "dtype", "layout"), pairwise((2, 3), DTYPES, LAYOUTS), ids=str)
@pytest.mark.parametrize("kernel,stride,extra", ((3, 2, 1), (3, 2, 0), (5, 1, 0), (2, 3, 2), (7, 2, 1)))
def test_transposed(layout, dtype, rank, kernel, stride, extra):
    ours = {2: ops.depthwise_conv_transpose2d, 3: ops.depthwise_conv_transpose3d}[rank]
    theirs = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[rank]
    arguments = {"stride": stride, "padding": kernel // 2, "output_padding": extra}
    generator = torch.Generator().manual_seed(kernel)
    x = torch.randn((2, 6, *[7] * rank), generator=generator).to(dtype)
    weight, bias = (torch.randn(s, generator=generator).to(dtype) for s in ((6, 1, *[kernel] * rank), (6,)))
    shape = theirs(x, weight, bias, **arguments, groups=6).shape
    inputs = [x, weight, bias, torch.randn(shape, generator=generator).to(dtype)]
    fused = run(lambda x, w, b: ours(x, w, b, **arguments), inputs, layout)
    peer = run(lambda x, w, b: theirs(x, w, b, **arguments, groups=6), inputs)
    case = Case(tuple(shape[2:]), *((number,) * rank for number in (kernel, stride, kernel // 2, 1)), channels=6)
    exact, size = extended_transposed(case, inputs), extended_transposed(case, inputs, magnitude=True)
    for name, actual, truth, them, terms in zip(Results._fields, fused, exact, peer, size, strict=True):
        assert_within_budget(actual, truth, them, name, terms=terms.max().item())


@pytest.mark.parametrize(
    ("activation", "case", "dtype", "layout"),
    pairwise(
        ("none", "leaky_relu"),
        (square(2, 33, 3), square(3, 11, 5), square(2, 20, 3, stride=2, multiplier=2)),
        DTYPES,
        LAYOUTS,
    ),
    ids=str,
)
def test_statistics_from_the_epilogue(case, dtype, layout, activation):
    """The same numbers as the norm of the convolution's output."""
    x, weight, bias, grad = case.inputs(dtype)
    x = in_layout(x + 3, layout)  # a mean far from zero
    scale, shift = torch.rand(weight.shape[0]) + 0.5, torch.randn(weight.shape[0])
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias, scale, shift)]

    def fused(x, weight, bias, scale, shift):
        return ops.depthwise_instance_norm_act(
            x, weight, bias, norm_weight=scale, norm_bias=shift, activation=activation, **case.geometry
        )

    def apart(x, weight, bias, scale, shift):
        y = conv(case)(x, weight, bias, **case.geometry)
        return ops.instance_norm_act(y, scale, shift, activation=activation)

    results = []
    for function in (fused, apart):
        y = function(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, in_layout(grad, layout))])
    assert results[0][0].stride() == results[1][0].stride()
    with torch.no_grad():
        torch.testing.assert_close(fused(*leaves), results[0][0], rtol=0, atol=0)
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    for name, one, other in zip(("y", "dx", "dweight", "dbias", "dscale", "dshift"), *results, strict=True):
        # A mean that differs in its last bit moves everything by that much, and 16-bit results by one rounding.
        scale_of = 1e3 if name == "dbias" else 1.0 + other.abs().max().item()  # dbias is zero but for rounding
        tolerance = 64 * eps * grad[0, 0].numel() ** 0.5 * scale_of + 2 * torch.finfo(one.dtype).eps * scale_of
        assert (one - other).abs().max().item() <= tolerance, name


def test_large_outputs_go_past_the_caches():
    case = square(3, 96, 3, channels=12, batch=1)  # over 32 MB
    check(case, torch.float32, "contiguous")
    case = square(3, 96, 3, channels=16, batch=1)
    inputs = case.inputs(torch.float32)
    rows, last = (
        run(lambda x, w, b: conv(case)(x, w, b, padding=1), inputs, layout)
        for layout in ("contiguous", "channels_last")
    )
    for one, other in zip(rows, last, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dilation", (1, 2))
@pytest.mark.parametrize("width", (24, 64))  # rows that end within a vector, too
def test_large_images(width, dilation):
    x, weight = torch.randn(1, 16, 12000, width), torch.randn(16, 1, 3, 3)
    options = {"padding": (dilation, 1), "dilation": (dilation, 1)}
    expected = F.conv2d(x, weight, groups=16, **options)
    for layout in ("contiguous", "channels_last"):
        y = ops.depthwise_conv2d(in_layout(x, layout), weight, **options)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", (3, 5))
def test_large_sixteen_bit_outputs(kernel):
    # 24 MB. A block of channels of the wider kernel is half a line of memory.
    x, weight = torch.randn(1, 32, 72, 72, 72).bfloat16(), torch.randn(32, 1, *[kernel] * 3).bfloat16()
    rows, last = (
        ops.depthwise_conv3d(in_layout(x, layout), weight, padding="same") for layout in ("contiguous", "channels_last")
    )
    torch.testing.assert_close(rows, last, rtol=2**-7, atol=1e-2)  # a rounding apart at most


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize(
    "case", (square(3, 17, 3, channels=3), square(2, 40, 5, stride=2), square(2, 64, 3, 1, 6)), ids=str
)
def test_same_bits_for_every_number_of_threads(case, layout):
    inputs = case.inputs(torch.float32)
    function = partial(conv(case), **case.geometry)
    assert_same_bits(for_thread_counts((1, 2, 3, 4), lambda: run(function, inputs, layout)))


@pytest.mark.parametrize(("size", "kernel", "channels"), ((8, 3, 400), (24, 5, 150), (9, 5, 150)))
def test_blocks_of_channels(size, kernel, channels):
    """Cut among threads for want of rows, in turns row by row, and one after the other."""
    torch.manual_seed(0)
    x = in_layout(torch.randn(2, channels, size, size), "channels_last")
    weight = torch.randn(channels, 1, kernel, kernel)
    results = for_thread_counts((1, 2, 3, 4), lambda: ops.depthwise_conv2d(x, weight, padding="same"))
    assert_same_bits(results)
    expected = F.conv2d(x.double(), weight.double(), padding="same", groups=channels)
    torch.testing.assert_close(results[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_gradients_of_any_strides(layout):
    case = square(2, 12, 3)
    x, weight, bias, _ = case.inputs(torch.float64)
    for grad in (torch.ones(()).double().expand(2, 5, 12, 12), torch.randn(2, 9, 12, 12).double()[:, 2:7]):
        leaves = [in_layout(x, layout).detach().requires_grad_(), weight.clone().requires_grad_()]
        ours = torch.autograd.grad(conv(case)(*leaves, bias, padding=1), leaves, grad)
        theirs = torch.autograd.grad(torch_conv(case, *leaves, bias), leaves, grad)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wanted", ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 0)))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_only_wanted_gradients(wanted, layout):
    case = square(3, 7, 3, stride=2)
    x, weight, bias, grad = case.inputs(torch.float64)
    leaves = [
        t.clone().requires_grad_(bool(w)) for t, w in zip((in_layout(x, layout), weight, bias), wanted, strict=True)
    ]
    y = conv(case)(*leaves, **case.geometry)
    kept = [t.data_ptr() for t in y.grad_fn.saved_tensors if t is not None]
    assert (leaves[0].data_ptr() in kept) == bool(wanted[1]), "x is kept for dweight only"
    y.backward(grad)
    theirs = torch_conv(case, *(twins := [t.detach().clone().requires_grad_() for t in leaves]))
    theirs.backward(grad)
    for leaf, twin in zip(leaves, twins, strict=True):
        assert (leaf.grad is not None) == leaf.requires_grad
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, twin.grad)


def test_nan_and_infinity_stay_where_the_taps_reach():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = float("nan")
    y = ops.depthwise_conv2d(x, torch.ones(1, 1, 3, 3), padding=1)
    assert y.isnan().sum() == 9 and y[0, 0, 3:6, 3:6].isnan().all()


@pytest.mark.parametrize("batch,channels", ((0, 3), (2, 0)))
def test_empty(batch, channels):
    x = torch.zeros(batch, channels, 5, 6, requires_grad=True)
    weight = torch.zeros(channels, 1, 3, 3, requires_grad=True)
    y = ops.depthwise_conv2d(x, weight, padding=1)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape and torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", (2, 3))
def test_opcheck(layout, rank):
    case = square(rank, 6, 3, channels=4, multiplier=2 if layout == "contiguous" else 1)
    x, weight, bias, grad = case.inputs(torch.float32)
    x = in_layout(x, layout)
    at = ([1] * rank, [1] * rank, [1] * rank)
    size = list(case.size)
    torch.library.opcheck(registered.forward_op, (x, weight, bias, *at, size))
    torch.library.opcheck(registered.statistics_op, (x, weight, None, *at, size, 1e-5))
    for wanted in ([True, True, True], [False, True, False]):
        torch.library.opcheck(registered.backward_op, (in_layout(grad, layout), x, weight, *at, wanted))
    if case.multiplier == 1:
        torch.library.opcheck(registered.transpose_op, (x, weight, None, *at, size, 4))
    torch.library.opcheck(
        torch.ops.fastseg.instance_norm_act_apply.default,
        (x, torch.zeros(2, 4), torch.ones(2, 4), None, None, "relu", 0.0),
    )


def test_gradcheck():
    case = Case((5, 6), (3, 2), (2, 1), (1, 2), (1, 2), batch=1, channels=2, multiplier=2)
    x, weight, bias, _ = case.inputs(torch.float64)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *t: ops.depthwise_conv2d(*t, **case.geometry), leaves)
    transposed = [torch.randn(s).double().requires_grad_() for s in ((1, 2, 3, 4), (2, 1, 3, 3), (2,))]
    assert torch.autograd.gradcheck(lambda *t: ops.depthwise_conv_transpose2d(*t, stride=2, padding=1), transposed)
    norm = [*leaves, torch.randn(4).double().requires_grad_(), torch.randn(4).double().requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda x, w, b, s, t: ops.depthwise_instance_norm_act(x, w, b, norm_weight=s, norm_bias=t, padding=1), norm
    )


def test_double_backward_is_refused_and_runs_on_the_reference():
    case = square(2, 6, 3)
    x, weight, bias, _ = case.inputs(torch.float64)
    x.requires_grad_()
    (dx,) = torch.autograd.grad(conv(case)(x, weight, bias).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
    with fastseg.backend("reference"):
        (dx,) = torch.autograd.grad(conv(case)(x, weight, bias).square().sum(), x, create_graph=True)
        dx.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_compiles_whole_and_once(layout):
    weight, bias = torch.randn(4, 1, 3, 3, requires_grad=True), torch.randn(4)
    pointwise = torch.randn(6, 4, 1, 1, requires_grad=True)

    def function(x):
        y = ops.depthwise_conv2d(x, weight, bias, padding="same")
        # Inductor itself compiles channels-last convolutions of its own anew for each size.
        y = ops.pointwise_conv(y, pointwise) if layout == "contiguous" else y[:, [0, 1, 2, 3, 0, 1]]
        return ops.depthwise_instance_norm_act(y, torch.ones(6, 1, 3, 3), padding=1, activation="relu")

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in ((2, 4, 9, 11), (3, 4, 12, 10)):
            x = in_layout(torch.randn(size), layout).requires_grad_()
            compiled(x).sum().backward()
            torch.testing.assert_close(compiled(x), function(x))


def test_autocast_casts_as_torchs_convolution():
    case = square(2, 16, 3)
    x, weight, bias, _ = case.inputs(torch.float32)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(case)(x, weight, bias, padding=1)
        assert y.dtype == torch.bfloat16 == torch_conv(case, x, weight, bias).dtype
        z = ops.depthwise_instance_norm_act(x, weight, bias, norm_weight=torch.ones(5), padding=1)
        assert z.dtype == torch.bfloat16
        (y.float().sum() + z.float().square().sum()).backward()
    assert weight.grad.dtype == torch.float32
    half = [t.to(torch.bfloat16) for t in (x, weight, bias)]
    assert torch.equal(y, conv(case)(*half, padding=1))


X = torch.randn(2, 4, 8, 9)
W = torch.randn(4, 1, 3, 3)


@pytest.mark.parametrize(
    "error,arguments,keywords,message",
    (
        (ValueError, (X[0], W), {}, r"x has shape \(4, 8, 9\), expected rank 4"),
        (ValueError, (X, W[:3]), {}, "weight has 3 filters, expected a multiple of x's 4 channels"),
        (
            ValueError,
            (X, torch.randn(4, 2, 3, 3)),
            {},
            r"weight has shape \(4, 2, 3, 3\), expected \(C \* m, 1, kH, kW\)",
        ),
        (ValueError, (X, W[..., 0]), {}, r"weight has shape \(4, 1, 3\)"),
        (ValueError, (X, W, torch.randn(3)), {}, r"bias has shape \(3,\), expected \(4,\)"),
        (TypeError, (X, W.double()), {}, "weight is torch.float64, expected x's dtype torch.float32"),
        (TypeError, (X, W, torch.randn(4).half()), {}, "bias is torch.float16, expected x's dtype"),
        (TypeError, (X.int(), W), {}, "x is torch.int32"),
        (ValueError, (X, W), {"dilation": 5}, r"gives an output of size \(-2, -1\), expected at least one pixel"),
        (ValueError, (X, W), {"stride": 0}, "stride is 0, expected an integer >= 1 or 2 of them"),
        (ValueError, (X, W), {"stride": (1, 2, 1)}, r"stride is \(1, 2, 1\)"),
        (ValueError, (X, W), {"padding": -1}, "padding is -1, expected an integer >= 0"),
        (ValueError, (X, W), {"padding": "full"}, "padding is 'full', expected integers, 'same' or 'valid'"),
        (ValueError, (X, W), {"padding": "same", "stride": 2}, "padding is 'same' with stride 2"),
        (ValueError, (X, W), {"dilation": 1.5}, "dilation is 1.5"),
        (ValueError, (X[:, :, :0], W), {}, "at least one pixel along each axis"),
        (ValueError, (X, W.to("meta")), {}, "weight is on meta, expected x's device cpu"),
    ),
)
def test_errors_name_argument_value_and_expectation(error, arguments, keywords, message):
    with pytest.raises(error, match=f"depthwise_conv2d: .*{message}"):
        ops.depthwise_conv2d(*arguments, **keywords)


def test_errors_of_the_other_ops():
    with pytest.raises(ValueError, match="depthwise_conv_transpose2d: weight has 8 filters, expected one for each"):
        ops.depthwise_conv_transpose2d(X, torch.randn(8, 1, 3, 3))
    with pytest.raises(ValueError, match="output_padding is 2, expected less than stride or dilation"):
        ops.depthwise_conv_transpose2d(X, W, stride=2, output_padding=2)
    with pytest.raises(ValueError, match=r"depthwise_conv3d: x has shape .*, expected rank 5"):
        ops.depthwise_conv3d(X, W)
    with pytest.raises(ValueError, match="depthwise_instance_norm_act: the convolution's output is one pixel"):
        ops.depthwise_instance_norm_act(X[..., :3, :3], W)
    with pytest.raises(ValueError, match=r"norm_weight has shape \(3,\), expected \(4,\)"):
        ops.depthwise_instance_norm_act(X, W, norm_weight=torch.ones(3))
    with pytest.raises(ValueError, match="eps is -1"):
        ops.depthwise_instance_norm_act(X, W, eps=-1)


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "wider or layouts_and_dtypes or transposed or epilogue or threads")
