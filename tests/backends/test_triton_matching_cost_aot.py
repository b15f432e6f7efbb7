"""The Triton kernels of matching costs, compiled for GPUs that need not be there: see test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import matching_cost as launcher
from fastseg.backends.triton import matching_cost_kernels
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)
from tests.support import pairwise

MEGAPIXEL = (1, 3, 1024, 1024)
MIDDLEBURY = (2, 3, 375, 450)
REGISTERS = 128
KINDS: dict[str, tuple] = {
    "AD and gradient": ("weighted", 0.11, 0.89, 0.0, 7, 9),
    "all": ("weighted", 0.1, 0.7, 0.2, 9, 9),
    "AD-census": ("ad_census", 0.0, 0.0, 0.0, 9, 7),
}


def launches_of(
    shape: tuple[int, ...], kind: str, dtype: torch.dtype, result: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> list[Launch]:
    recorded = record_launches(launcher, monkeypatch)
    image = torch.empty(shape, dtype=dtype, device="meta")
    cost, *weights, rows, columns = KINDS[kind]
    disparities = min(64, shape[-1])
    launcher.matching_cost(
        image, image, 0, disparities, "left", cost, *weights, 0.03, 0.01, rows, columns, 0.01, 0.05, 35.0, result
    )
    return recorded


@pytest.mark.parametrize(
    ("images", "kind", "capability"),
    pairwise(
        (
            (MEGAPIXEL, torch.float32, torch.float32),
            (MEGAPIXEL, torch.uint8, torch.float16),
            (MIDDLEBURY, torch.bfloat16, torch.float32),
            (MIDDLEBURY, torch.float64, torch.float16),
        ),
        KINDS,
        (80, 90),
    ),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(images, kind, capability, monkeypatch, capfd):
    shape, dtype, result = images
    launches = launches_of(shape, kind, dtype, result, monkeypatch)
    different = {launch.kernel: launch for launch in launches}
    if kind == "all":
        assert {kernel.fn.__name__ for kernel in different} == kernels_of(matching_cost_kernels)
    for launch in different.values():
        compiled = compile_launch(launch, capability, capfd)
        assert compiled.spilled_bytes == 0, compiled.kernel
        assert compiled.registers <= REGISTERS, f"{compiled.kernel} takes {compiled.registers}"
        if shape == MEGAPIXEL:  # rows of other widths begin anywhere
            assert max(widths("st", compiled.ptx)) >= (8 if result == torch.float16 else 16), compiled.kernel


@pytest.mark.parametrize("shape", ((1, 1, 1, 1), (1, 1, 1, 70000), (1, 3, 70000, 1), (1, 1, 65600, 65600)), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    launches = launches_of(shape, "all", torch.float32, torch.float32, monkeypatch)
    for launch in {launch.kernel: launch for launch in launches}.values():  # both images have the same ones
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0
