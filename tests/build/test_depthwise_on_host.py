"""The CUDA kernels of the depthwise family run on the host, against wider arithmetic, with the cases of the CPU."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastseg.backends.views import (
    ELEMENT,
    Layout,
    as_layout,
    depthwise_shape,
    layout_of,
    new_output,
    vector,
    view,
)
from tests.build.host_build import build_on_host
from tests.ops.depthwise_cases import CASES, Case, Results, extended, gradients, square, torch_conv
from tests.support import assert_within_budget, in_layout

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")

Shape = ctypes.c_int64 * 21
NAN = float("nan")
EPS = 1e-5


class View(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int),
        ("batch_stride", ctypes.c_int64),
        ("channel_stride", ctypes.c_int64),
        ("spatial_stride", ctypes.c_int64),
    ]


class Vector(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("type", ctypes.c_int), ("stride", ctypes.c_int64)]


class Forward(ctypes.Structure):
    _fields_ = [
        ("shape", Shape),
        ("x", View),
        ("weight", ctypes.c_void_p),
        ("bias", Vector),
        ("y", View),
        ("mean", ctypes.c_void_p),
        ("rstd", ctypes.c_void_p),
        ("eps", ctypes.c_double),
    ]


class Backward(ctypes.Structure):
    _fields_ = [
        ("shape", Shape),
        ("grad", View),
        ("x", View),
        ("weight", ctypes.c_void_p),
        ("bias", Vector),
        ("dx", View),
        ("dweight", ctypes.c_void_p),
        ("dbias", ctypes.c_void_p),
    ]


class Kernels:
    """The entry points; every call gets a workspace of exactly what it asks for, all bits set."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.last_error.restype = ctypes.c_char_p
        self.library.workspace.restype = ctypes.c_int64

    def run(self, name: str, args: Forward | Backward, element: int, layout: Layout, reduces: bool) -> None:
        backward = name == "backward"
        nbytes = self.library.workspace(
            ctypes.byref(args.shape), element, int(layout == "channels_last"), int(backward), int(reduces)
        )
        guard = 64
        workspace = torch.full((nbytes + guard,), 0xFF, dtype=torch.uint8)
        status = getattr(self.library, name)(ctypes.byref(args), ctypes.c_void_p(workspace.data_ptr()))
        assert status == 0, self.library.last_error()
        assert (workspace[nbytes:] == 0xFF).all(), "wrote behind its workspace"

    def general(self) -> bool:
        """Whether the last call began with the kernel for what the others do not take."""
        return self.library.shared_bytes_of_first() == 0


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(build_on_host("depthwise", tmp_path_factory.mktemp("host"), "-shared"))


def poisoned(x: Tensor, channels: int, size: Sequence[int], layout: Layout) -> Tensor:
    return new_output(x, channels, size, layout).fill_(NAN)


def check(kernels: Kernels, case: Case, dtype: torch.dtype, layout: Layout, fast: bool | None = None) -> None:
    x, weight, bias, grad = case.inputs(dtype)
    format_ = "contiguous" if layout == "rows" else "channels_last"
    x, grad = (as_layout(in_layout(t, format_), layout) for t in (x, grad))
    assert layout_of(x) == layout
    shape = Shape(*depthwise_shape(x.shape, weight.shape, case.stride, case.padding, case.dilation, case.size))
    compute = torch.promote_types(dtype, torch.float32)
    element = ELEMENT[dtype]

    y = poisoned(x, weight.shape[0], case.size, layout)
    mean, rstd = (torch.full(y.shape[:2], NAN, dtype=compute) for _ in range(2))
    args = Forward(
        shape,
        View(*view(x)),
        weight.data_ptr(),
        Vector(*vector(bias)),
        View(*view(y)),
        mean.data_ptr(),
        rstd.data_ptr(),
        EPS,
    )
    kernels.run("forward", args, element, layout, reduces=True)
    if fast is not None:
        assert kernels.general() is not fast

    dx, alone = (poisoned(x, x.shape[1], x.shape[2:], layout) for _ in range(2))
    dweight = torch.full(weight.shape, NAN, dtype=compute)
    dbias = torch.full(weight.shape[:1], NAN, dtype=compute)
    given = shape, View(*view(grad)), View(*view(x)), weight.data_ptr(), Vector()
    everything = Backward(*given, View(*view(dx)), dweight.data_ptr(), dbias.data_ptr())
    kernels.run("backward", everything, element, layout, reduces=True)
    kernels.run("backward", Backward(*given, View(*view(alone)), None, None), element, layout, reduces=False)

    inputs = [x, weight, bias, grad]
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    peer = gradients(torch_conv(case, *leaves), leaves, grad)
    exact, size = extended(case, inputs), extended(case, inputs, magnitude=True)
    for name, actual in (*zip(Results._fields, (y, dx, dweight, dbias), strict=True), ("dx", alone)):
        truth, theirs, terms = (getattr(of, name) for of in (exact, peer, size))
        assert_within_budget(actual, truth, theirs, name, terms=terms.max().item())
    written = y.double().flatten(2)
    torch.testing.assert_close(mean.double(), written.mean(2), atol=2e-6, rtol=2e-6)
    expected_rstd = (written.var(2, correction=0) + EPS).rsqrt()
    torch.testing.assert_close(rstd.double(), expected_rstd, atol=1e-5, rtol=1e-5)


#: What the kernels of rows leave to the general one, forward.
ODD = ("s3x3", "s2x2-p6x6-d3x3", "s2x2x2-p2x2x2-d2x2x2", "s2x1x1", "s1x2x3", "s1x3x1")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows(kernels: Kernels, case: Case) -> None:
    check(kernels, case, torch.float32, "rows", fast=not any(odd in str(case) for odd in ODD))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.kernel[-1] == 3 and case.stride[-1] < 3], ids=str)
def test_rows_of_sixteen_bits(kernels: Kernels, case: Case, dtype: torch.dtype) -> None:
    check(kernels, case, dtype, "rows")


WHOLE_VECTORS = [case for case in CASES if case.multiplier == 1 and 1 < max(case.image) < 60]


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("case", [case for case in WHOLE_VECTORS if case.stride[-1] == 1], ids=str)
def test_channels_last_of_sixteen_bits(kernels: Kernels, case: Case, dtype: torch.dtype) -> None:
    check(kernels, dataclasses.replace(case, channels=24), dtype, "channels_last")


@pytest.mark.parametrize("case", WHOLE_VECTORS, ids=str)
def test_channels_last(kernels: Kernels, case: Case) -> None:
    """24 channels are whole vectors but no whole block of them."""
    general = any(odd in str(case) for odd in ODD if odd not in ("s2x1x1", "s1x3x1")) or case.kernel[-1] % 2 == 0
    check(kernels, dataclasses.replace(case, channels=24), torch.float32, "channels_last", fast=not general)


@pytest.mark.parametrize("layout", ("rows", "channels_last"))
@pytest.mark.parametrize("case", (square(2, 13, 3, channels=3), square(3, 5, 3, stride=2, channels=3)), ids=str)
def test_float64_and_channels_that_fill_no_vector(kernels: Kernels, case: Case, layout: Layout) -> None:
    check(kernels, case, torch.float64, layout, fast=False)
    if layout == "channels_last":
        check(kernels, case, torch.float32, layout, fast=False)


@pytest.mark.parametrize(
    "case",
    (
        square(3, 34, 3, channels=2, batch=1),  # several segments of planes, and tiles of both axes
        square(3, 26, 3, dilation=2, channels=1, batch=1),
        square(2, 70, 3, dilation=18, channels=2),
        Case((40, 33), (5, 5), (1, 1), (0, 0), (1, 1), channels=3),  # "valid": the bias is counted at another tap
        Case((9, 40, 33), (3, 3, 3), (1, 1, 1), (2, 2, 2), (1, 1, 1), channels=1),  # full: it cannot be counted
        Case((1, 1, 65), (1, 1, 7), (1, 1, 1), (0, 0, 3), (1, 1, 1), batch=3, channels=17),
    ),
    ids=str,
)
def test_larger_images(kernels: Kernels, case: Case) -> None:
    check(kernels, case, torch.float32, "rows", fast=True)


def test_statistics_far_from_zero(kernels: Kernels) -> None:
    """A mean of 1e4 with a deviation of 1 keeps its variance."""
    generator = torch.Generator().manual_seed(0)
    for layout in ("rows", "channels_last"):
        x = as_layout(torch.randn(1, 8, 12, 20, 20, generator=generator) + 1e4, layout)
        weight = torch.zeros(8, 1, 3, 3, 3)
        weight[:, 0, 1, 1, 1] = 1
        y = poisoned(x, 8, x.shape[2:], layout)
        mean, rstd = (torch.full((1, 8), NAN) for _ in range(2))
        ones = (1, 1, 1)
        shape = Shape(*depthwise_shape(x.shape, weight.shape, ones, ones, ones, x.shape[2:]))
        views = View(*view(x)), weight.data_ptr(), Vector(), View(*view(y))
        args = Forward(shape, *views, mean.data_ptr(), rstd.data_ptr(), EPS)
        kernels.run("forward", args, ELEMENT[x.dtype], layout, reduces=True)
        assert torch.equal(y, x)
        exact = x.double().flatten(2)
        torch.testing.assert_close(mean.double(), exact.mean(2), atol=6e-4, rtol=0)
        torch.testing.assert_close(rstd.double(), (exact.var(2, correction=0) + EPS).rsqrt(), atol=0, rtol=1e-4)


def test_slices_with_gaps(kernels: Kernels) -> None:
    """Channels between others are read and written where they lie, and nothing beside them."""
    case = square(2, 13, 3, channels=3)
    x, weight, bias, _ = case.inputs(torch.float32)
    room = torch.full((2, 9, 13, 13), NAN)
    room[:, 1:7:2] = x
    around = torch.full((2, 9, 13, 13), 7.0)
    shape = Shape(*depthwise_shape(x.shape, weight.shape, case.stride, case.padding, case.dilation, case.size))
    source, target = View(*view(room[:, 1:7:2])), View(*view(around[:, 1:7:2]))
    args = Forward(shape, source, weight.data_ptr(), Vector(*vector(bias)), target, None, None, EPS)
    kernels.run("forward", args, ELEMENT[x.dtype], "rows", reduces=False)
    torch.testing.assert_close(around[:, 1:7:2], torch_conv(case, x, weight, bias))
    around[:, 1:7:2] = 7.0
    assert (around == 7.0).all()
