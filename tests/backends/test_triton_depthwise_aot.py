"""Every Triton kernel of the depthwise family, compiled for GPUs that need not be there: see test_triton_aot.py."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import depthwise, depthwise_kernels
from fastseg.backends.views import Layout, memory_format
from tests.backends.test_triton_aot import (
    BEYOND_32_BITS,
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)

LARGE_3D = (1, 32, 128, 128, 128)
LARGE_2D = (8, 64, 256, 256)
REGISTERS = 168  # of 128 threads: three programs on a multiprocessor

both_layouts = pytest.mark.parametrize("layout", ("rows", "channels_last"))


def launches_of(
    shape: tuple[int, ...],
    kernel: int | tuple[int, ...],
    dtype: torch.dtype,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    stride: int = 1,
    dilation: int = 1,
    multiplier: int = 1,
) -> list[Launch]:
    """Forward with statistics, and both gradients."""
    recorded = record_launches(depthwise, monkeypatch)
    rank = len(shape) - 2
    x = torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=memory_format(layout, rank))
    taps = (kernel,) * rank if isinstance(kernel, int) else kernel
    filters = shape[1] * multiplier
    weight, bias = (torch.empty(s, dtype=dtype, device="meta") for s in ((filters, 1, *taps), (filters,)))
    padding = [dilation * (k - 1) // 2 for k in taps]
    size = [
        (n + 2 * p - dilation * (k - 1) - 1) // stride + 1 for n, p, k in zip(shape[2:], padding, taps, strict=True)
    ]
    at = ([stride] * rank, padding, [dilation] * rank)
    y, _, _ = depthwise.depthwise_conv_forward(x, weight, bias, *at, size, 1e-5)
    depthwise.depthwise_conv_backward(y, x, weight, *at, (True, True, False))
    return recorded


def loads_of(launch: Launch) -> int:
    """Global loads in the code of a kernel that loads each line of its source and each weight once."""
    constants: dict[str, Any] = launch.constants
    height, rows = depthwise.Axis(*constants["HEIGHT"]), constants["ROWS"]
    if launch.kernel is depthwise_kernels.convolve:
        bias = launch.args[2] is not None
        return depthwise.loads_of(height, rows, constants["TRANSPOSED"])[0] + height.kernel + bias
    window = height._replace(kernel=constants["TAPS_Y"])
    return depthwise.loads_of(window, rows, False)[0] * constants["TAPS_X"] + rows


CASES = [
    (90, LARGE_2D, 3, 1, torch.float32),
    (90, LARGE_3D, 3, 1, torch.bfloat16),
    (90, LARGE_3D, 3, 2, torch.float32),
    (90, LARGE_2D, 5, 1, torch.bfloat16),
    (90, LARGE_3D, 5, 1, torch.float64),
    (90, LARGE_3D, 7, 1, torch.bfloat16),
    (80, LARGE_3D, 3, 1, torch.float64),
    (80, LARGE_3D, 5, 2, torch.float32),
    (80, LARGE_2D, 7, 1, torch.float32),
]


@both_layouts
@pytest.mark.parametrize(("capability", "shape", "kernel", "stride", "dtype"), CASES)
@pytest.mark.usefixtures("ptxas_report")
def test_kernels_compile_without_spills_and_load_once(
    capability: int,
    shape: tuple[int, ...],
    kernel: int,
    stride: int,
    dtype: torch.dtype,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for launch in launches_of(shape, kernel, dtype, layout, monkeypatch, stride):
        if launch.kernel is depthwise_kernels.merge_statistics:
            continue  # the same for all: it is compiled below
        compiled = compile_launch(launch, capability, capfd)
        assert compiled.spilled_bytes == 0, compiled.kernel
        assert compiled.registers <= REGISTERS, f"{compiled.kernel} takes {compiled.registers}"
        loads, stores = widths("ld", compiled.ptx), widths("st", compiled.ptx)
        assert len(loads) == loads_of(launch), compiled.kernel
        if layout == "channels_last":
            wide = min(16, 4 * dtype.itemsize)
            assert min(loads) >= wide, f"{compiled.kernel}: {loads}"
            assert launch.kernel is depthwise_kernels.correlate or max(stores) >= wide, f"{compiled.kernel}: {stores}"


#: Shape, kernel, stride, dilation and multiplier: sizes of one, channels that fill no vector, small images, taps that
#: share no line or are too many to unroll, strides beyond a lane, and offsets that need 64 bits.
EDGES = [
    (BEYOND_32_BITS, 3, 1, 1, 1),
    ((2, 320, 2, 2, 2), 3, 1, 1, 1),
    ((1, 1, 1, 3), 3, 1, 1, 1),
    ((2, 20, 50, 50), 3, 1, 1, 1),
    ((1, 3, 33, 35), 5, 1, 1, 2),
    ((1, 64, 64, 64), 3, 1, 18, 1),
    ((1, 64, 64, 64), (31, 3), 1, 1, 1),
    ((1, 32, 64, 64), 16, 12, 1, 1),
]


@both_layouts
@pytest.mark.parametrize(("shape", "kernel", "stride", "dilation", "multiplier"), EDGES)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(
    shape: tuple[int, ...],
    kernel: int | tuple[int, ...],
    stride: int,
    dilation: int,
    multiplier: int,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for launch in launches_of(shape, kernel, torch.float32, layout, monkeypatch, stride, dilation, multiplier):
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0
        if "INDEX" in launch.constants:
            assert (launch.constants["INDEX"].primitive_bitwidth == 64) == (shape == BEYOND_32_BITS)


def test_every_kernel_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {launch.kernel.fn.__name__ for launch in launches_of(LARGE_2D, 3, torch.float32, "rows", monkeypatch)}
    assert kernels_of(depthwise_kernels) == launched
