"""The Triton kernels of the attention gate, compiled for GPUs that need not be there: see test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import attention_gate as gate
from fastseg.backends.triton import attention_gate_kernels as kernels
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
)
from tests.support import pairwise


def launches_of(sizes, image, grid, dtype, layout: str, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    recorded = record_launches(gate, monkeypatch)
    batch, channels, gating, features = sizes
    ones = [1] * len(image)
    shapes = ((batch, channels, *image), (batch, gating, *grid), (features, channels, *ones), (features, gating, *ones))
    x, g, *weights = (torch.empty(shape, dtype=dtype, device="meta") for shape in shapes)
    if layout == "channels_last":
        memory = torch.channels_last if len(image) == 2 else torch.channels_last_3d
        x, g = x.to(memory_format=memory), g.to(memory_format=memory)
    psi = torch.empty((1, features, *ones), dtype=dtype, device="meta")
    gate.attention_gate_forward(x, g, *weights, None, psi, None)
    gate.attention_gate_backward(x, x, g, *weights, None, psi, None)
    return recorded


@pytest.mark.parametrize(
    ("features", "dtype", "grid", "layout", "capability"),
    pairwise(
        (16, 64),
        (torch.float32, torch.float64, torch.bfloat16),
        ((64, 64, 64), (32, 32, 32)),
        ("rows", "channels_last"),
        (80, 90),
    ),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(features, dtype, grid, layout, capability, monkeypatch, capfd):
    for launch in launches_of((1, 32, 32, features), (64, 64, 64), grid, dtype, layout, monkeypatch):
        compiled = compile_launch(launch, capability, capfd)
        assert compiled.spilled_bytes == 0, compiled.kernel
        assert compiled.registers <= 255, f"{compiled.kernel} takes {compiled.registers}"


@pytest.mark.parametrize(
    "case",
    (
        ((2, 1, 1, 1), (1, 3), (1, 3)),
        ((1, 3, 1, 5), (1, 70000), (1, 1)),
        ((1, 2, 4, 16), (1, 65600, 65600), (1, 32800, 32800)),
    ),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(case, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    for launch in launches_of(*case, torch.float32, "rows", monkeypatch):
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0


def test_every_kernel_is_covered(monkeypatch):
    launched = launches_of((1, 2, 2, 2), (4, 4), (2, 2), torch.float32, "rows", monkeypatch)
    assert kernels_of(kernels) == {launch.kernel.fn.__name__ for launch in launched}
