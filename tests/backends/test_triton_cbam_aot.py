"""The Triton kernels of channel and spatial attention, compiled for GPUs that need not be there: test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.cbam_call import needed, new_saved
from fastseg.backends.triton import cbam, cbam_kernels
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)
from tests.support import pairwise

IMAGES = (4, 64, 256, 256)
VOLUME = (1, 320, 16, 16, 16)
REGISTERS = 168  # of 128 threads: three programs on a multiprocessor


def launches_of(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> list[Launch]:
    recorded = record_launches(cbam, monkeypatch)
    x = torch.empty(shape, dtype=dtype, device="meta")
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    channels, ones = shape[1], (1,) * (len(shape) - 2)
    dense = [torch.empty(size, device="meta") for size in ((4, channels), (4,), (channels, 4), (channels,))]
    convolution = torch.empty((1, 2, *[7 * one for one in ones]), device="meta")
    point = torch.empty((1, channels, *ones), device="meta")
    for parameters, spatial, max_pool in (
        ((*dense, convolution, None, None, None), "pooled", True),
        ((*dense, point, None, None, None), "projected", False),
        ((*dense, None, None, None, None), "none", True),
    ):
        cbam.cbam_forward(x, parameters, spatial, max_pool, False, False, 1e-5)
        saved = new_saved(x, needed(True, spatial, max_pool, False), max_pool)
        cbam.cbam_backward(x, x, parameters, saved, spatial, max_pool, False, False, 1e-5)
    # The pools of all three are the same: triton would take the second from its cache, without a report.
    different = {}
    for launch in recorded:
        absent = tuple(arg is None for arg in launch.args)
        different[launch.kernel.fn.__name__, absent, tuple(launch.constants.items())] = launch
    return list(different.values())


@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "capability"),
    pairwise((IMAGES, VOLUME), (torch.float32, torch.float64, torch.bfloat16), ("rows", "channels_last"), (80, 90)),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills_and_with_wide_accesses(shape, dtype, layout, capability, monkeypatch, capfd):
    for launch in launches_of(shape, dtype, layout, monkeypatch):
        compiled = compile_launch(launch, capability, capfd)
        assert compiled.spilled_bytes == 0, compiled.kernel
        assert compiled.registers <= REGISTERS, f"{compiled.kernel} takes {compiled.registers}"
        assert max(widths("ld", compiled.ptx)) == 16, compiled.kernel


@pytest.mark.parametrize("shape", ((2, 1, 1, 3), (1, 3, 700, 1), (1, 2, 65600, 65600), (2, 5, 1, 1, 1)), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    for launch in launches_of(shape, torch.float32, "rows", monkeypatch):
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0


def test_every_kernel_is_covered(monkeypatch):
    launched = {launch.kernel.fn.__name__ for launch in launches_of(IMAGES, torch.float32, "rows", monkeypatch)}
    assert kernels_of(cbam_kernels) == launched
