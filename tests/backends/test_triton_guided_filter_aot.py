"""The Triton kernels of the guided filter, compiled for GPUs that need not be there: see test_triton_aot.py.

Loads of rows that are shifted by the radius cannot be wide: they are four bytes a lane, side by side.
"""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import guided_filter, guided_filter_kernels
from fastseg.ops.guided_filter import BORDERS
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)

VOLUME = (1, 64, 375, 450)
PHOTOGRAPH = (2, 3, 480, 640)
WIDE = (1, 1, 4000, 6000)
TOO_WIDE = 600  # a radius whose windows fit no tile


def launches_of(
    shape: tuple[int, ...],
    guide_channels: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    radius: int = 9,
    border: str = "truncate",
    subsample: int = 1,
) -> list[Launch]:
    recorded = record_launches(guided_filter, monkeypatch)
    src = torch.empty(shape, dtype=dtype, device="meta")
    guide = torch.empty((shape[0], guide_channels, *shape[2:]), dtype=torch.uint8, device="meta")
    if subsample == 1:
        guided_filter.guided_filter(guide, src, radius, 1e-4, border)
    else:
        low = (..., slice(None, None, subsample), slice(None, None, subsample))
        coefficients = guided_filter.guided_filter_coefficients(guide[low], src[low], radius, 1e-4, border)
        guided_filter.guided_filter_interpolate(guide, coefficients, subsample, src)
    return recorded


def check(
    launches: list[Launch], registers: int, capability: int, capfd: pytest.CaptureFixture[str], narrowest: int = 4
) -> None:
    for launch in launches:
        compiled = compile_launch(launch, capability, capfd)
        what = f"{compiled.kernel} {launch.constants}"
        assert compiled.spilled_bytes == 0, what
        assert compiled.registers <= registers, f"{what} takes {compiled.registers}"
        if launch.constants.get("STAGE") not in (None, "result"):
            assert min(widths("st", compiled.ptx)) >= narrowest, what


@pytest.mark.parametrize("capability", (80, 90))
@pytest.mark.parametrize("guide_channels", (1, 3))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.uint8), ids=str)
@pytest.mark.parametrize("shape", (VOLUME, PHOTOGRAPH, WIDE), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(shape, dtype, guide_channels, capability, monkeypatch, capfd):
    launches = launches_of(shape, guide_channels, dtype, monkeypatch)
    stages = [launch.constants.get("STAGE") for launch in launches]
    assert stages == ["means", None, "coefficients", "result"]
    check(launches, REGISTERS[guide_channels], capability, capfd)


@pytest.mark.parametrize("capability", (80, 90))
@pytest.mark.parametrize("guide_channels", (1, 3))
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.usefixtures("ptxas_report")
def test_windows_too_wide_for_tiles_compile(border, guide_channels, capability, monkeypatch, capfd):
    launches = launches_of(VOLUME, guide_channels, torch.float32, monkeypatch, TOO_WIDE, border)
    check(launches, REGISTERS[guide_channels], capability, capfd)
