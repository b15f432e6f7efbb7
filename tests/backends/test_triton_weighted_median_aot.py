"""The Triton kernel of the weighted median, compiled for GPUs that need not be there: see test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import weighted_median as median
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
)
from tests.support import pairwise

PHOTOGRAPH = (1, 1, 375, 450)
COLOURS = (2, 3, 480, 640)
BEYOND_32_BITS = (1, 1, 50000, 65600)


def launch_of(
    shape: tuple[int, ...],
    guide_channels: int,
    dtype: torch.dtype,
    radius: int,
    listed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> Launch:
    """With a list of pixels and weights, or with neither."""
    recorded = record_launches(median, monkeypatch)
    src = torch.empty(shape, dtype=dtype, device="meta")
    guide = torch.empty((shape[0], guide_channels, *shape[2:]), dtype=torch.uint8, device="meta")
    pixels = torch.empty(20000, dtype=torch.int64, device="meta") if listed else None
    weights = torch.empty(shape[-2:], dtype=torch.promote_types(dtype, torch.float32), device="meta")
    given = weights.expand(1, 1, *shape[-2:]) if listed else None
    median.filter_listed(src, guide, pixels, 20000, given, torch.empty_like(src), radius, 25.0, 9.0)
    (launch,) = recorded
    return launch


@pytest.mark.parametrize(
    ("image", "dtype", "radius", "capability"),
    pairwise(
        ((PHOTOGRAPH, 1, False), (COLOURS, 3, True)),
        (torch.float32, torch.float64, torch.bfloat16, torch.uint8),
        (1, 9, 31, 40),
        (80, 90),
    ),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(image, dtype, radius, capability, monkeypatch, capfd):
    shape, guide_channels, listed = image
    launch = launch_of(shape, guide_channels, dtype, radius, listed, monkeypatch)
    in_registers = 22 if dtype == torch.float64 else 31
    assert (launch.constants["BLOCK"] >= (2 * radius + 1) ** 2) == (radius <= in_registers)
    assert compile_launch(launch, capability, capfd).spilled_bytes == 0


@pytest.mark.parametrize("shape", ((2, 1, 1, 3), (1, 1, 1, 1), (1, 1, 70000, 1), BEYOND_32_BITS), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    launch = launch_of(shape, 1, torch.float32, 9, True, monkeypatch)
    assert compile_launch(launch, 90, capfd).spilled_bytes == 0
