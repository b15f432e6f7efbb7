"""The Triton kernels of cross-scale aggregation, compiled for GPUs that need not be there: see test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import cross_scale, cross_scale_kernels
from fastseg.ops import cross_scale_shapes
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)
from tests.support import pairwise

VOLUME = (1, 64, 375, 450)
WIDE = (2, 65, 480, 640)
BEYOND_32_BITS = (2, 300, 2048, 2048)
REGISTERS = 128  # of 128 threads: four programs on a multiprocessor


def launches_of(
    form: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    levels: int = 4,
    min_disparity: int = 0,
) -> list[Launch]:
    recorded = record_launches(cross_scale, monkeypatch)
    pyramid = form == "pyramid"
    shapes = [level.shape if pyramid else shape for level in cross_scale_shapes(shape, levels, min_disparity)]
    costs = [torch.empty(each, dtype=dtype, device="meta") for each in shapes]
    cross_scale.cross_scale_aggregate(costs, 0.3, min_disparity, pyramid)
    wanted = list(range(levels))
    cross_scale.cross_scale_aggregate_backward(costs[0], 0.3, min_disparity, pyramid, shapes, wanted)
    return recorded


@pytest.mark.parametrize(
    ("shape", "form", "dtype", "capability"),
    pairwise((VOLUME, WIDE), ("full size", "pyramid"), (torch.float32, torch.float64, torch.bfloat16), (80, 90)),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(shape, form, dtype, capability, monkeypatch, capfd):
    launches = launches_of(form, shape, dtype, monkeypatch)
    assert len(launches) == (5 if form == "pyramid" else 2)
    for launch in launches[:4]:
        compiled = compile_launch(launch, capability, capfd)
        assert compiled.spilled_bytes == 0, compiled.kernel
        assert compiled.registers <= REGISTERS, f"{compiled.kernel} takes {compiled.registers}"
        if form == "full size":
            assert max(widths("ld", compiled.ptx)) == max(widths("st", compiled.ptx)) == 16, compiled.kernel


@pytest.mark.parametrize(
    ("shape", "min_disparity", "form"),
    pairwise(((1, 1, 1, 1), (1, 1, 1, 70000), (3, 1, 70000, 1), BEYOND_32_BITS), (0, 1, -7), ("full size", "pyramid")),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, min_disparity, form, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    for launch in launches_of(form, shape, torch.float32, monkeypatch, 2, min_disparity):
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0


@pytest.mark.parametrize("form", ("full size", "pyramid"))
@pytest.mark.usefixtures("ptxas_report")
def test_most_levels_compile(form, monkeypatch, capfd):
    for launch in launches_of(form, VOLUME, torch.float32, monkeypatch, levels=16)[:2]:
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0


def test_every_kernel_is_covered(monkeypatch):
    launched = {
        launch.kernel.fn.__name__
        for form in ("full size", "pyramid")
        for launch in launches_of(form, VOLUME, torch.float32, monkeypatch)
    }
    assert kernels_of(cross_scale_kernels) == launched
