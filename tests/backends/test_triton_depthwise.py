"""Triton kernels of the depthwise family against wider arithmetic; in the interpreter, see test_triton_norm.py."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg import ops
from fastseg.backends.triton import depthwise, depthwise_kernels
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.ops.depthwise_cases import (
    Case,
    Results,
    extended,
    extended_transposed,
    square,
    torch_conv,
)
from tests.support import assert_within_budget, in_layout, poison, rerun

EPS = 1e-5
both_layouts = pytest.mark.parametrize("layout", ("contiguous", "channels_last"))


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles and parts for small images, and memory that holds NaN before."""
    monkeypatch.setattr(depthwise, "THREADS", 32)
    monkeypatch.setattr(depthwise, "PROGRAMS", 4)
    poison(monkeypatch, depthwise, "new_output")
    poison(monkeypatch, depthwise, "statistics_like")
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(float("nan")))


#: What makes a kernel of its own: strides, multipliers, flat kernels in a volume, lines that taps share or do not,
#: taps that are unrolled or not, in columns or planes.
CASES = (
    square(2, 19, 3, channels=2, batch=1),
    square(2, 9, 3, stride=2, multiplier=2, channels=2),
    square(2, 8, 5, channels=3, batch=1),
    square(2, 8, 7, channels=1, batch=1),
    square(2, 12, 5, stride=2, channels=1, batch=1),
    square(2, 9, 4, stride=3, channels=1, batch=1),
    square(2, 16, 3, dilation=6, channels=1, batch=1),
    square(2, 2, 1, channels=70, batch=1),
    square(3, 5, 3, stride=2, channels=1, batch=1),
    Case((4, 5, 6), (2, 1, 3), (1, 2, 3), (0, 1, 2), (1, 1, 2), batch=1, channels=2),
    Case((3, 6, 5), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), batch=1, channels=1),
    Case((27, 2), (25, 2), (1, 1), (3, 0), (1, 1), batch=1, channels=2),
    Case((20, 3), (2, 1), (9, 1), (1, 1), (1, 1), batch=1, channels=2),
)


def run(function: Callable[..., Tensor], inputs: list[Tensor], layout: str, device: str) -> list[Tensor]:
    """The result and the gradients of all inputs but the last, which is the result's."""
    *leaves, grad = (t.to(device) for t in inputs)
    leaves = [in_layout(leaves[0], layout).detach().clone(memory_format=torch.preserve_format), *leaves[1:]]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y = function(*leaves)
    return [t.cpu() for t in (y.detach(), *torch.autograd.grad(y, leaves, in_layout(grad, layout)))]


@runs_kernels
@both_layouts
@pytest.mark.parametrize(
    "case,dtype",
    (*((case, torch.float32) for case in CASES), *((case, torch.bfloat16) for case in CASES[:3])),
    ids=str,
)
def test_against_wider_arithmetic(case: Case, layout: str, dtype: torch.dtype) -> None:
    conv = {2: ops.depthwise_conv2d, 3: ops.depthwise_conv3d}[len(case.image)]
    inputs = case.inputs(dtype)
    with fastseg.backend("triton"):
        ours = run(lambda x, w, b: conv(x, w, b, **case.geometry), inputs, layout, DEVICE)
    peer = run(lambda x, w, b: torch_conv(case, x, w, b), inputs, layout, "cpu")
    exact, size = extended(case, inputs), extended(case, inputs, magnitude=True)
    for name, actual, truth, theirs, terms in zip(Results._fields, ours, exact, peer, size, strict=True):
        assert_within_budget(actual, truth, theirs, name, terms=terms.max().item())


#: Kernel, stride, padding, output padding: one source for all rows, for every other one, further apart than a lane.
TRANSPOSED = ((3, 1, 1, 0), (3, 2, 1, 1), (4, 2, 1, 0), (2, 3, 0, 1), (2, 9, 0, 3))


@runs_kernels
@both_layouts
@pytest.mark.parametrize("kernel,stride,padding,extra", TRANSPOSED)
def test_transposed(kernel: int, stride: int, padding: int, extra: int, layout: str) -> None:
    arguments = {"stride": stride, "padding": padding, "output_padding": extra}
    generator = torch.Generator().manual_seed(stride)
    x, weight, bias = (torch.randn(s, generator=generator) for s in ((1, 2, 3, 2), (2, 1, kernel, kernel), (2,)))
    shape = F.conv_transpose2d(x, weight, bias, **arguments, groups=2).shape
    inputs = [x, weight, bias, torch.randn(shape, generator=generator)]
    with fastseg.backend("triton"):
        ours = run(lambda x, w, b: ops.depthwise_conv_transpose2d(x, w, b, **arguments), inputs, layout, DEVICE)
    peer = run(lambda x, w, b: F.conv_transpose2d(x, w, b, **arguments, groups=2), inputs, layout, "cpu")
    case = Case(tuple(shape[2:]), *((n, n) for n in (kernel, stride, padding, 1)), batch=1, channels=2)
    exact, size = extended_transposed(case, inputs), extended_transposed(case, inputs, magnitude=True)
    for name, actual, truth, theirs, terms in zip(Results._fields, ours, exact, peer, size, strict=True):
        assert_within_budget(actual, truth, theirs, name, terms=terms.max().item())


@runs_kernels
@both_layouts
@pytest.mark.parametrize(
    "case",
    (
        square(2, 33, 3, channels=1, batch=1),
        square(2, 15, 5, stride=2, channels=4),
        square(2, 9, 3, multiplier=2, channels=1),
        square(3, 5, 3, channels=2, batch=1),
        Case((2, 1), (2, 1), (1, 1), (1, 0), (1, 1), batch=3, channels=5),
    ),
    ids=str,
)
@pytest.mark.parametrize("dtype,offset", ((torch.float32, 1e4), (torch.bfloat16, 0.0)), ids=str)
def test_statistics_are_those_of_y_as_it_is_stored(
    offset: float, case: Case, dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[dict[str, object]] = []
    launch = depthwise.launch

    def recorded(kernel, programs, warps, *args, **constants):
        launched.append(dict(zip(kernel.arg_names, args, strict=False)))
        launch(kernel, programs, warps, *args, **constants)

    monkeypatch.setattr(depthwise, "launch", recorded)
    x, weight, bias, _ = (t.to(DEVICE) for t in case.inputs(dtype))
    sizes = (case.stride, case.padding, case.dilation, case.size)
    y, mean, rstd = depthwise.depthwise_conv_forward(in_layout(x, layout), weight, bias + offset, *sizes, EPS)
    assert mean.shape == rstd.shape == y.shape[:2] and mean.dtype == rstd.dtype == torch.float32
    variance, exact_mean = torch.var_mean(y.double(), tuple(range(2, y.ndim)), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rstd.double(), (variance + EPS).rsqrt(), rtol=2e-6, atol=0)
    if y[0, 0].numel() > 1000:
        assert launched[0]["parts"] > 1 and launched[0]["tiles"] > 1, "one tile tells nothing about merging"


@runs_kernels
@both_layouts
def test_a_constant_channel_has_no_variance(layout: str) -> None:
    x, weight = torch.randn(1, 2, 9, 11, device=DEVICE), torch.zeros(2, 1, 3, 3, device=DEVICE)
    bias = torch.tensor([0.1, -1e4], device=DEVICE)
    at = ((1, 1), (1, 1), (1, 1), (9, 11))
    _, mean, rstd = depthwise.depthwise_conv_forward(in_layout(x, layout), weight, bias, *at, EPS)
    assert torch.equal(mean[0], bias)
    torch.testing.assert_close(rstd, torch.full_like(rstd, EPS**-0.5))


ACTIVATIONS = {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, 0.1)}
NORM_NAMES = ("y", "dx", "dweight", "dbias", "dscale", "dshift")


def norm_of_conv(case: Case, inputs: list[Tensor], activation: str) -> tuple[list[Tensor], list[float]]:
    """The float64 results, and the sizes of what is added up for each of them."""
    *leaves, grad = (t.double() for t in inputs)
    for leaf in leaves:
        leaf.requires_grad_()
    x, weight, bias, scale, shift = leaves
    conv = torch_conv(case, x, weight, bias)
    y = ACTIVATIONS[activation](F.instance_norm(conv, weight=scale, bias=shift, eps=EPS))
    dconv, *gradients = torch.autograd.grad(y, [conv, *leaves], grad)
    axes = tuple(range(2, conv.ndim))
    variance, mean = torch.var_mean(conv.detach(), axes, correction=0, keepdim=True)
    normalised = (conv.detach() - mean) / (variance + EPS).sqrt()
    per_channel = (1, -1, *[1] * len(axes))
    size = extended(case, [*inputs[:3], dconv], magnitude=True)
    sizes = [
        (size.y / (variance + EPS).sqrt() * scale.detach().abs().view(per_channel)).max(),
        *(t.max() for t in size[1:]),
        (grad * normalised).abs().sum((0, *axes)).max(),
        grad.abs().sum((0, *axes)).max(),
    ]
    return [y.detach(), *gradients], [t.item() for t in sizes]


NORMS = (
    (square(2, 11, 3, channels=2), torch.float32, 0.0, "leaky_relu"),
    (square(2, 11, 3, channels=2), torch.float32, 1e4, "none"),  # no sign of a rounded number decides
    (square(2, 11, 3, channels=2), torch.bfloat16, 0.0, "none"),
    (square(2, 9, 5, stride=2, multiplier=2, channels=1), torch.float32, 0.0, "relu"),
    (square(3, 5, 3, channels=1), torch.float32, 1e4, "none"),
)


@runs_kernels
@both_layouts
@pytest.mark.parametrize("case,dtype,offset,activation", NORMS, ids=str)
def test_norm_of_a_convolution(case: Case, dtype: torch.dtype, offset: float, activation: str, layout: str) -> None:
    x, weight, bias, grad = case.inputs(dtype)
    generator = torch.Generator().manual_seed(1)
    scale, shift = (torch.randn(weight.shape[0], generator=generator).to(dtype) for _ in range(2))
    inputs = [x + offset, weight, bias, scale, shift, grad]

    def fused(x, weight, bias, scale, shift):
        return ops.depthwise_instance_norm_act(
            x, weight, bias, norm_weight=scale, norm_bias=shift, **case.geometry,
            activation=activation, negative_slope=0.1, eps=EPS,
        )  # fmt: skip

    def peer(x, weight, bias, scale, shift):
        z = F.instance_norm(torch_conv(case, x, weight, bias), weight=scale, bias=shift, eps=EPS)
        return ACTIVATIONS[activation](z)

    with fastseg.backend("triton"):
        ours = run(fused, inputs, layout, DEVICE)
    theirs = run(peer, inputs, layout, "cpu")
    exact, sizes = norm_of_conv(case, inputs, activation)
    for name, actual, truth, other, terms in zip(NORM_NAMES, ours, exact, theirs, sizes, strict=True):
        assert not actual.isnan().any(), name
        assert_within_budget(actual, truth, other, name, terms=terms)


@runs_kernels
@both_layouts
def test_nan_stays_where_the_taps_reach(layout: str) -> None:
    x, weight = torch.zeros(1, 1, 9, 9, device=DEVICE), torch.ones(1, 1, 3, 3, device=DEVICE)
    x[0, 0, 4, 4] = float("nan")
    with fastseg.backend("triton"):
        y = ops.depthwise_conv2d(in_layout(x, layout), weight, padding=1)
        strided = ops.depthwise_conv_transpose2d(in_layout(x, layout), weight, stride=2)
    assert y.isnan().sum() == 9 and y[0, 0, 3:6, 3:6].isnan().all()
    assert strided.isnan().sum() == 9 and strided[0, 0, 8:11, 8:11].isnan().all()


@runs_kernels
@both_layouts
def test_what_lies_below_y_touches_no_gradient(layout: str) -> None:
    """A stride of two leaves out the last row: infinity there is no tap's."""
    x, weight = torch.ones(1, 1, 10, 3, device=DEVICE), torch.ones(1, 1, 5, 1, device=DEVICE, requires_grad=True)
    x[:, :, 9] = float("inf")
    with fastseg.backend("triton"):
        ops.depthwise_conv2d(in_layout(x, layout), weight, stride=(2, 1)).sum().backward()
    assert weight.grad is not None and (weight.grad == 9).all()


@pytest.mark.parametrize("transposed", (False, True))
def test_every_row_finds_its_lines(transposed: bool) -> None:
    """What is found out while compiling, against the definition: y's row r takes x's row r * stride - padding + tap *
    dilation."""
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2, 5), (1, 2, 3)):
        axis = (kernel, stride, padding, dilation)
        rows = 2 * stride if transposed else 4
        found = {
            (row, line): depthwise_kernels.tap_of(line, row, axis, transposed)
            for line in depthwise_kernels.lines_of(rows, axis, transposed)
            for row in range(rows)
        }
        for first in (0, 6 * rows):  # of a lane
            origin = (first + padding) // stride if transposed else first * stride - padding
            expected = {}
            for row, tap in itertools.product(range(rows), range(kernel)):
                if not transposed:
                    expected[row, (first + row) * stride - padding + tap * dilation - origin] = tap
                elif (first + row + padding - tap * dilation) % stride == 0:
                    expected[row, (first + row + padding - tap * dilation) // stride - origin] = tap
            assert {place: tap for place, tap in found.items() if tap >= 0} == expected, axis
