"""The Triton kernels of the guided filter, compiled for GPUs that need not be there: see test_triton_aot.py.

Loads of rows that are shifted by the radius cannot be wide: they are four bytes a lane, side by side.
"""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import guided_filter, guided_filter_kernels, guided_filter_pixel_kernels
from fastseg.ops.guided_filter import BORDERS
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
PHOTOGRAPH = (2, 3, 480, 640)
WIDE = (1, 1, 4000, 6000)
TOO_WIDE = 600  # a radius whose windows fit no tile

#: Beside a grey and a colour guide: eight warps of the latter on a multiprocessor, at least.
REGISTERS = {1: 168, 3: 208}

#: Bytes that ptxas gives up to memory where values are float64, for one more program on a multiprocessor.
SPILLED = 32


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


def in_float64(launch: Launch) -> bool:
    return any(isinstance(arg, torch.Tensor) and arg.dtype == torch.float64 for arg in launch.args)


def check(launches: list[Launch], registers: int, capability: int, capfd: pytest.CaptureFixture[str]) -> None:
    for launch in launches:
        compiled = compile_launch(launch, capability, capfd)
        what = f"{compiled.kernel} {launch.constants}"
        assert compiled.spilled_bytes <= (SPILLED if in_float64(launch) else 0), what
        assert compiled.registers <= registers, f"{what} takes {compiled.registers}"
        if launch.constants.get("STAGE") == "coefficients":
            assert min(widths("st", compiled.ptx)) >= 4, what


@pytest.mark.parametrize(
    ("shape", "dtype", "guide_channels", "capability"),
    pairwise((VOLUME, PHOTOGRAPH, WIDE), (torch.float32, torch.float64, torch.bfloat16, torch.uint8), (1, 3), (80, 90)),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(shape, dtype, guide_channels, capability, monkeypatch, capfd):
    launches = launches_of(shape, guide_channels, dtype, monkeypatch)
    stages = [launch.constants.get("STAGE") for launch in launches]
    assert stages == ["means", None, "coefficients", "result"]
    check(launches, REGISTERS[guide_channels], capability, capfd)


@pytest.mark.parametrize(("border", "radius", "guide_channels"), pairwise(BORDERS, (9, TOO_WIDE), (1, 3)), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_borders_compile(border, radius, guide_channels, monkeypatch, capfd):
    launches = launches_of(VOLUME, guide_channels, torch.float32, monkeypatch, radius, border)
    kernels = {launch.kernel.fn.__name__ for launch in launches}
    assert ("row_windows" in kernels) == (radius == TOO_WIDE)
    check(launches, REGISTERS[guide_channels], 90, capfd)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.uint8), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_subsampled_compiles(dtype, monkeypatch, capfd):
    launches = launches_of(PHOTOGRAPH, 3, dtype, monkeypatch, subsample=4)
    assert [launch.constants.get("STAGE") for launch in launches] == ["means", None, "coefficients", "means", None]
    check(launches, REGISTERS[3], 90, capfd)


@pytest.mark.parametrize(
    ("shape", "radius", "border", "tiles"),
    pairwise(((2, 1, 1, 3), (1, 1, 1, 70000), (3, 1, 70000, 1), (1, 2, 65600, 65600)), (1, 16), BORDERS, (True, False)),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, radius, border, tiles, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    if not tiles:
        monkeypatch.setattr(guided_filter, "WASTE", 0)
    launches = launches_of(shape, 1, torch.float32, monkeypatch, radius, border)
    check(launches[: 4 if tiles else 7], REGISTERS[1], 90, capfd)


@pytest.mark.usefixtures("ptxas_report")
def test_interpolating_compiles_for_sizes_at_the_edge(monkeypatch, capfd):
    for shape in ((2, 1, 1, 3), (3, 1, 70000, 1), (1, 1, 65600, 65600)):
        launch = launches_of(shape, 1, torch.float32, monkeypatch, subsample=3)[-1]
        check([launch], REGISTERS[1], 90, capfd)


def test_every_kernel_is_covered(monkeypatch):
    launches = launches_of(VOLUME, 3, torch.float32, monkeypatch, TOO_WIDE, subsample=1)
    launches += launches_of(VOLUME, 3, torch.float32, monkeypatch, subsample=2)
    kernels = kernels_of(guided_filter_kernels) | kernels_of(guided_filter_pixel_kernels)
    assert kernels == {launch.kernel.fn.__name__ for launch in launches}


def test_a_volume_fills_a_card(monkeypatch):
    """In warps; strips of a whole window's height and more, that read no more than twice the rows of the volume."""
    launches = launches_of(VOLUME, 3, torch.float32, monkeypatch)
    for launch in launches[2:]:
        assert launch.programs * launch.warps >= 4096
        assert launch.args[9] >= 19
