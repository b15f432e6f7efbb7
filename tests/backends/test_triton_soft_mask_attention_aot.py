"""The Triton kernels of soft-mask attention, compiled for GPUs that need not be there: see test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import soft_mask_attention as attention
from fastseg.backends.triton import soft_mask_attention_kernels as kernels
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)
from tests.support import pairwise


def launches_of(shape, one: bool, dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    recorded = record_launches(attention, monkeypatch)
    trunk = torch.empty(shape, dtype=dtype, device="meta")
    mask = trunk[:, :1].contiguous() if one else trunk
    if layout == "channels_last":
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        trunk = trunk.to(memory_format=formats[len(shape)])
    attention.soft_mask_attention_forward(trunk, mask if one else trunk)
    for wanted in ((True, True), (True, False), (False, True)):
        attention.soft_mask_attention_backward(trunk, trunk, mask if one else trunk, *wanted)
    return recorded


@pytest.mark.parametrize(
    ("dtype", "one", "layout", "capability"),
    pairwise((torch.float32, torch.float64, torch.bfloat16), (False, True), ("rows", "channels_last"), (80, 90)),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills_and_with_wide_accesses(dtype, one, layout, capability, monkeypatch, capfd):
    launches = launches_of((1, 32, 128, 128, 128), one, dtype, layout, monkeypatch)
    for launch in launches[:2]:
        compiled = compile_launch(launch, capability, capfd)
        assert compiled.spilled_bytes == 0
        assert compiled.registers <= 128, f"{compiled.kernel} takes {compiled.registers}"
        assert max(widths("ld", compiled.ptx)) == max(widths("st", compiled.ptx)) == 16


@pytest.mark.parametrize(
    "shape", ((2, 1, 1, 3), (1, 3, 1, 70000), (1, 2, 2048, 1024, 1040), (2, 320, 2, 2, 2)), ids=str
)
@pytest.mark.parametrize("one", (False, True))
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, one, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    for launch in launches_of(shape, one, torch.float32, "rows", monkeypatch):
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0


def test_every_kernel_is_covered(monkeypatch):
    launched = launches_of((1, 2, 4, 4), False, torch.float32, "rows", monkeypatch)
    assert kernels_of(kernels) == {launch.kernel.fn.__name__ for launch in launched}
