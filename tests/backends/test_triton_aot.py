"""Every Triton kernel of the norm family, compiled for GPUs that need not be there.

The launches are recorded on meta tensors of the real shapes, so what is compiled is what would run. Nothing may spill,
and 16-byte loads and stores must move the tensors.
"""

import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402

from benchmarks.gpu.predict import source_for  # noqa: E402
from fastseg.backends.triton import norm, norm_kernels  # noqa: E402
from fastseg.backends.triton.tensors import Strided, compute_dtype  # noqa: E402
from fastseg.backends.views import Layout  # noqa: E402

STREAMED_3D = (1, 32, 128, 128, 128)
RESIDENT_3D = (2, 320, 8, 8, 8)
STREAMED_2D = (8, 64, 256, 256)
LONGEST_RESIDENT_2D = (2, 32, 128, 128)
DEEPEST_3D = (2, 320, 2, 2, 2)
MULTIPLES_OF_FOUR_2D = (2, 20, 50, 50)
BEYOND_32_BITS = (1, 2, 2048, 1024, 1040)


class Launch(NamedTuple):
    kernel: Any
    programs: int
    warps: int
    args: tuple[Any, ...]
    constants: dict[str, Any]


class Compiled(NamedTuple):
    kernel: str
    ptx: str
    registers: int
    spilled_bytes: int


def record_launches(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What ``module`` launches from now on; nothing runs."""
    recorded: list[Launch] = []
    monkeypatch.setattr(
        module,
        "launch",
        lambda kernel, programs, warps, *args, **constants: recorded.append(
            Launch(kernel, programs, warps, args, constants)
        ),
    )
    return recorded


def launches_of(
    shape: tuple[int, ...], dtype: torch.dtype, layout: Layout, residual: bool, monkeypatch: pytest.MonkeyPatch
) -> list[Launch]:
    recorded = record_launches(norm, monkeypatch)
    x = torch.empty(shape, dtype=dtype, device="meta")
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    weight = torch.empty(shape[1], dtype=compute_dtype(dtype), device="meta")
    other = x if residual else None
    y, mean, rstd = norm.instance_norm_act_forward(x, weight, weight, other, "leaky_relu", 0.01, 1e-5)
    norm.instance_norm_act_apply(x, mean, rstd, weight, weight, "leaky_relu", 0.01)
    branch = y if residual else None
    norm.instance_norm_act_backward(x, x, weight, weight, branch, mean, rstd, "leaky_relu", 0.01)
    return recorded


#: What was compiled: tests of several shapes meet the same kernel with the same constants.
_compiled: dict[tuple[str, str], Compiled] = {}


def compile_launch(launch: Launch, capability: int, capfd: pytest.CaptureFixture[str]) -> Compiled:
    """What triton would do for this launch on a GPU of this capability."""
    target = GPUTarget("cuda", capability, 32)
    options = {**launch.constants, "num_warps": launch.warps}
    source, parsed = source_for(launch.kernel, launch.args, options, target)
    same = (source.hash(), f"{capability} {parsed}")
    if same in _compiled:
        return _compiled[same]
    capfd.readouterr()
    compiled = triton.compile(source, target=target, options=parsed.__dict__)
    log = capfd.readouterr().out
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill", log)
    assert registers and spills, f"no report from ptxas: {log}"
    name = launch.kernel.fn.__name__
    _compiled[same] = Compiled(name, compiled.asm["ptx"], int(registers.group(1)), sum(map(int, spills)))
    return _compiled[same]


@pytest.fixture
def ptxas_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_DUMP_PTXAS_LOG", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # a cached kernel would come without a report


def kernels_of(module: ModuleType) -> set[str]:
    """The names of what a module defines to be launched: no device functions of its own or of others."""
    return {
        name
        for name, value in vars(module).items()
        if isinstance(value, triton.JITFunction) and value.fn.__module__ == module.__name__ and not name.startswith("_")
    }


def widths(access: str, ptx: str) -> list[int]:
    """Bytes of every global load or store."""
    accesses = re.findall(rf"{access}\.global\.(?:\w+::\w+\.)*(?:v(\d)\.)?b(\d+)", ptx)
    return [int(count or 1) * int(bits) // 8 for count, bits in accesses]


CASES = [
    (90, STREAMED_3D, torch.float32, True),
    (90, STREAMED_3D, torch.bfloat16, False),
    (90, STREAMED_3D, torch.float64, True),
    (90, RESIDENT_3D, torch.float32, False),
    (90, RESIDENT_3D, torch.bfloat16, True),
    (90, RESIDENT_3D, torch.float64, True),
    (90, STREAMED_2D, torch.float32, False),
    (90, STREAMED_2D, torch.float16, True),
    (90, LONGEST_RESIDENT_2D, torch.float32, True),
    (90, LONGEST_RESIDENT_2D, torch.bfloat16, False),
    (90, MULTIPLES_OF_FOUR_2D, torch.float32, True),
    (80, STREAMED_3D, torch.float32, False),
    (80, STREAMED_3D, torch.bfloat16, True),
    (80, RESIDENT_3D, torch.float32, True),
    (80, RESIDENT_3D, torch.bfloat16, False),
    (80, STREAMED_2D, torch.float32, True),
    (80, STREAMED_2D, torch.bfloat16, False),
    (80, LONGEST_RESIDENT_2D, torch.float32, True),
]


@pytest.mark.parametrize("layout", ["rows", "channels_last"])
@pytest.mark.parametrize(("capability", "shape", "dtype", "residual"), CASES)
@pytest.mark.usefixtures("ptxas_report")
def test_kernels_compile_without_spills_and_with_wide_accesses(
    capability: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    residual: bool,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for launch in launches_of(shape, dtype, layout, residual, monkeypatch):
        compiled = compile_launch(launch, capability, capfd)
        assert compiled.spilled_bytes == 0, compiled.kernel
        assert compiled.registers <= 128, f"{compiled.kernel} takes {compiled.registers}"
        if any(isinstance(arg, Strided) for arg in launch.args):
            assert max(widths("ld", compiled.ptx)) == 16, compiled.kernel


@pytest.mark.parametrize("layout", ["rows", "channels_last"])
@pytest.mark.parametrize("shape", [DEEPEST_3D, BEYOND_32_BITS, (2, 1, 1, 3), (1, 3, 70000)])
@pytest.mark.usefixtures("ptxas_report")
def test_sizes_at_the_edge_compile(
    shape: tuple[int, ...],
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Among them sizes of one, which triton turns into constants, and sizes that need 64 bits."""
    if len(shape) == 3 and layout == "channels_last":
        pytest.skip("torch has no channels-last memory format of rank 3")
    for launch in launches_of(shape, torch.float32, layout, True, monkeypatch):
        assert compile_launch(launch, 90, capfd).spilled_bytes == 0


def test_every_kernel_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {
        launch.kernel.fn.__name__
        for shape in (STREAMED_3D, RESIDENT_3D)
        for launch in launches_of(shape, torch.float32, "channels_last", True, monkeypatch)
    }
    assert kernels_of(norm_kernels) == launched
