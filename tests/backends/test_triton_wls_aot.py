"""The Triton kernels of the wls family, compiled for GPUs that need not be there: see test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import wls, wls_dense_kernels, wls_setup, wls_setup_kernels, wls_solve_kernels
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)

MEGAPIXEL = (1024, 1024)
ODD = (450, 375)
LONG_LINES = (9000, 12000)
BEYOND_32_BITS = (65600, 65600)

#: Those that hold double-precision values: 128 threads of 168 registers leave three programs on a multiprocessor.
REGISTERS = 168

#: Bytes that ptxas gives up to memory where lines are longer than a block, for one more program on a multiprocessor.
SPILLED = 32


def launches_of(shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Of a set-up and a step."""
    recorded = record_launches(wls, monkeypatch)
    monkeypatch.setattr(wls_setup, "launch", wls.launch)
    image = torch.empty(shape, dtype=dtype, device="meta")
    workspace = wls.Workspace(wls_setup.wls_setup(image, 1.0, 1.2, 1e-4).hierarchy)
    workspace.renew_residual(image)
    workspace.step()
    return recorded


def variants(launches: list[Launch]) -> list[Launch]:
    """One launch for each kernel and set of compile-time constants, and with or without slanted links."""
    found = {}
    for launch in launches:
        missing = tuple(arg is None for arg in launch.args)
        found.setdefault((launch.kernel, launch.warps, missing, tuple(launch.constants.items())), launch)
    return list(found.values())


def allowed_spills(launch: Launch) -> int:
    return 0 if launch.constants.get("ONE_BLOCK", True) else SPILLED


@pytest.mark.parametrize("capability", (80, 90))
@pytest.mark.parametrize(
    ("shape", "dtype"), ((MEGAPIXEL, torch.float32), (ODD, torch.float64), (LONG_LINES, torch.float32)), ids=str
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(shape, dtype, capability, monkeypatch, capfd):
    for launch in variants(launches_of(shape, dtype, monkeypatch)):
        compiled = compile_launch(launch, capability, capfd)
        what = f"{compiled.kernel} {launch.constants}"
        assert compiled.spilled_bytes <= allowed_spills(launch), what
        if launch.kernel.fn.__module__ == wls_solve_kernels.__name__:
            assert compiled.registers <= REGISTERS, f"{what} takes {compiled.registers}"
        if launch.kernel is wls_solve_kernels.solve_lines and shape == MEGAPIXEL and launch.constants["BLOCK_P"] > 128:
            assert max(widths("ld", compiled.ptx)) == max(widths("st", compiled.ptx)) == 16, what


@pytest.mark.parametrize("shape", ((1, 1), (1, 3), (1, 70000), (70000, 1), BEYOND_32_BITS), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    for launch in variants(launches_of(shape, torch.float32, monkeypatch))[:30]:
        assert compile_launch(launch, 90, capfd).spilled_bytes <= allowed_spills(launch)


def test_every_kernel_is_covered(monkeypatch):
    launched = {launch.kernel.fn.__name__ for launch in launches_of(MEGAPIXEL, torch.float32, monkeypatch)}
    modules = wls_setup_kernels, wls_dense_kernels, wls_solve_kernels
    assert set().union(*map(kernels_of, modules)) == launched


def test_a_step_at_a_megapixel_is_a_graph_of_some_seventy_launches(monkeypatch):
    recorded = launches_of(MEGAPIXEL, torch.float32, monkeypatch)
    steps = [launch for launch in recorded if launch.kernel.fn.__module__ == wls_solve_kernels.__name__]
    assert len(steps) - 1 <= 75  # the residual is computed anew outside of it
