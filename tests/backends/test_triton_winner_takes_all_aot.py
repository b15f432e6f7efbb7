"""The Triton kernel of winner takes all, compiled for GPUs that need not be there: see test_triton_aot.py."""

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.triton import winner_takes_all as winner
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)
from tests.support import pairwise

VOLUME = (1, 64, 480, 640)
REGISTERS = 64  # of 128 threads: eight programs on a multiprocessor


def launch_of(
    shape: tuple[int, ...], dtype: torch.dtype, resumes: bool, near: bool, monkeypatch: pytest.MonkeyPatch
) -> Launch:
    recorded = record_launches(winner, monkeypatch)
    costs = torch.empty(shape, dtype=dtype, device="meta")
    window = torch.empty((shape[0], *shape[2:]), dtype=torch.int32, device="meta") if near else None
    found = winner.winner_takes_all(costs, (), 0, window, 3 if near else 0)
    if resumes:
        winner.winner_takes_all(costs, found, shape[1], window, 3 if near else 0)
    return recorded[-1]


@pytest.mark.parametrize(
    ("dtype", "resumes", "near", "capability"),
    pairwise((torch.float32, torch.float64, torch.bfloat16, torch.uint8), (False, True), (False, True), (80, 90)),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills(dtype, resumes, near, capability, monkeypatch, capfd):
    compiled = compile_launch(launch_of(VOLUME, dtype, resumes, near, monkeypatch), capability, capfd)
    assert compiled.spilled_bytes == 0
    assert compiled.registers <= REGISTERS, f"takes {compiled.registers}"
    if dtype == torch.float32:  # two pixels of a thread at a time
        assert max(widths("ld", compiled.ptx)) == max(widths("st", compiled.ptx)) == 8


@pytest.mark.parametrize("shape", ((2, 1, 1, 1), (1, 2, 1, 70000), (1, 1, 65600, 65600)), ids=str)
@pytest.mark.parametrize("resumes", (False, True))
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, resumes, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    assert compile_launch(launch_of(shape, torch.float32, resumes, True, monkeypatch), 90, capfd).spilled_bytes == 0
