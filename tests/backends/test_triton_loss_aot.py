"""The Triton kernels of the losses, compiled for GPUs that need not be there: see test_triton_aot.py."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from fastseg.backends.loss_call import Formula
from fastseg.backends.triton import loss, loss_formula_kernel, loss_kernels
from tests.backends.test_triton_aot import (
    Launch,
    compile_launch,
    kernels_of,
    ptxas_report,  # noqa: F401 (a fixture)
    record_launches,
    widths,
)
from tests.support import pairwise

DICE_CE = Formula(False, 1.0, 1.0, 0.5, 0.5, 5e-6, 1.0, False, True, False)
#: Focal Tversky of the whole batch, and generalised Dice without background, both with balanced cross-entropy.
OTHERS = (DICE_CE._replace(gamma=0.75, batch=True, balanced=True), DICE_CE._replace(generalized=True, balanced=True))
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
#: Logits of networks in 3-D and 2-D, and of many classes.
SHAPES = ((2, 4, 128, 128, 128), (8, 2, 256, 256), (2, 150, 64, 64))


def launches_of(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
    sigmoid: bool = False,
    truth: torch.dtype = torch.uint8,
    formula: Formula = DICE_CE,
    ignored: int = -100,
    weighted: bool = False,
) -> list[Launch]:
    """Sums, formula and gradient."""
    recorded = record_launches(loss, monkeypatch)
    logits = torch.empty(shape, dtype=dtype, device="meta")
    target = torch.empty(shape if sigmoid else (shape[0], 1, *shape[2:]), dtype=truth, device="meta")
    if layout == "channels_last":
        logits = logits.to(memory_format=FORMATS[len(shape)])
        target = target.to(memory_format=FORMATS[len(shape)]) if sigmoid else target
    weights = torch.empty(shape[1], dtype=torch.float64, device="meta") if weighted else None
    value, slopes, _ = loss.segmentation_loss_forward(logits, target, weights, sigmoid, ignored, formula)
    loss.segmentation_loss_backward(value, logits, target, slopes, sigmoid, ignored)
    return recorded


def spills(launches: list[Launch], capfd: pytest.CaptureFixture[str]) -> dict[str, int]:
    compiled = [compile_launch(launch, 90, capfd) for launch in launches]
    return {each.kernel: each.spilled_bytes for each in compiled if each.spilled_bytes}


@pytest.mark.parametrize("layout", ("rows", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_compiles_without_spills_and_with_wide_accesses(shape, dtype, layout, monkeypatch, capfd):
    sums, formula, gradient = launches_of(shape, dtype, layout, monkeypatch)
    assert spills([formula], capfd) == {}
    # In rows 16 bytes; in channels-last tensors the largest power of two that divides the classes of a voxel.
    together = min(16, (shape[1] & -shape[1]) * dtype.itemsize)
    for launch in (sums, gradient):
        compiled = compile_launch(launch, 90, capfd)
        assert compiled.spilled_bytes == 0
        assert compiled.registers <= 128, f"{compiled.kernel} takes {compiled.registers}"
        wide = 16 if layout == "rows" else together
        assert widths("ld", compiled.ptx).count(wide) >= launch.constants["BLOCK_K"] * launch.constants["BLOCK_S"] / (
            32 * launch.warps * wide // dtype.itemsize
        )
    assert max(widths("st", compile_launch(gradient, 90, capfd).ptx)) == (16 if layout == "rows" else together)


@pytest.mark.parametrize(
    ("dtype", "layout", "sigmoid", "truth"),
    pairwise(
        (torch.float32, torch.float64, torch.bfloat16, torch.float16),
        ("rows", "channels_last"),
        (False, True),
        (torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64),
    ),
    ids=str,
)
@pytest.mark.usefixtures("ptxas_report")
def test_every_kind_of_truth_compiles_without_spills(dtype, layout, sigmoid, truth, monkeypatch, capfd):
    launches = launches_of((2, 4, 64, 64, 64), dtype, layout, monkeypatch, sigmoid, truth)
    assert spills(launches, capfd) == {}


@pytest.mark.parametrize("classes", (1, 3, 8, 16, 19, 1000, 1024))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.usefixtures("ptxas_report")
def test_every_number_of_classes_compiles_without_spills(dtype, classes, monkeypatch, capfd):
    assert spills(launches_of((2, classes, 256, 256), dtype, "rows", monkeypatch), capfd) == {}


@pytest.mark.parametrize(
    "shape", ((1, 1, 1, 1), (2, 1, 1, 3), (1, 3, 1, 70000), (1, 2, 2048, 1024, 1040), (70, 2, 5, 5)), ids=str
)
@pytest.mark.parametrize("sigmoid", (False, True))
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(shape, sigmoid, monkeypatch, capfd):
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    for formula in OTHERS:
        launches = launches_of(shape, torch.float32, "rows", monkeypatch, sigmoid, formula=formula, ignored=1)
        assert spills(launches, capfd) == {}


@pytest.mark.usefixtures("ptxas_report")
def test_weights_of_classes_compile(monkeypatch, capfd):
    launches = launches_of((2, 4, 64, 64), torch.float64, "rows", monkeypatch, weighted=True)
    assert spills(launches, capfd) == {}


def test_many_parts_of_many_classes_are_added_before(monkeypatch):
    """By torch, whose sum is spread over the device."""
    few, many = (launches_of(shape, torch.float32, "rows", monkeypatch)[1].args[0] for shape in SHAPES[::2])
    assert few.shape[1] > 100 and few.numel() <= loss.FORMULA_SLOTS
    assert many.shape == (2, 1, 4, 150)


def test_every_kernel_is_covered(monkeypatch):
    launched = {launch.kernel.fn.__name__ for launch in launches_of((1, 2, 4, 4), torch.float32, "rows", monkeypatch)}
    assert kernels_of(loss_kernels) | kernels_of(loss_formula_kernel) == launched
