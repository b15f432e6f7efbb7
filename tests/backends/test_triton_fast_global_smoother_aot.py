"""The Triton kernel of the fast global smoother, compiled for GPUs that need not be there: see test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import fast_global_smoother as smoother
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)
from tests.support import pairwise

MEGAPIXEL = (1, 1, 1024, 1024)
COLOURS = (2, 3, 480, 640)
LONG_LINES = (1, 1, 20000, 30016)
REGISTERS = 128  # of 256 threads: two programs on a multiprocessor


def launches_of(
    shape: tuple[int, ...], guide_channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> list[Launch]:
    recorded = record_launches(smoother, monkeypatch)
    src = torch.empty(shape, dtype=dtype, device="meta")
    guide = torch.empty((shape[0], guide_channels, *shape[2:]), dtype=torch.uint8, device="meta")
    smoother.fast_global_smoother(src, guide, 100.0, 10.0, 2, 0.25, False)
    return recorded


@pytest.mark.parametrize(
    ("shape", "dtype", "guide_channels", "capability"),
    pairwise(
        (MEGAPIXEL, COLOURS, LONG_LINES), (torch.float32, torch.float64, torch.bfloat16, torch.uint8), (1, 3), (80, 90)
    ),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(shape, dtype, guide_channels, capability, monkeypatch, capfd):
    launches = launches_of(shape, guide_channels, dtype, monkeypatch)
    assert len(launches) == 4
    for launch in (launches[0], launches[3]):  # src along rows, and along columns to dst
        compiled = compile_launch(launch, capability, capfd)
        assert compiled.spilled_bytes == 0
        assert compiled.registers <= REGISTERS, f"takes {compiled.registers}"
        if dtype == torch.float32:
            assert max(widths("st", compiled.ptx)) == 16


@pytest.mark.parametrize("shape", ((2, 1, 1, 3), (1, 1, 1, 70000), (3, 1, 70000, 1), (1, 2, 65600, 65600)), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    for launch in launches_of(shape, 1, torch.float32, monkeypatch)[:2]:
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0
