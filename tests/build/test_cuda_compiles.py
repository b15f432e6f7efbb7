"""What the compiler says of the CUDA kernels, for machines without a GPU: no spills, and 128-bit loads."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
FLAGS = ["-std=c++17", "-I", str(ROOT / "csrc" / "include"), "-DFASTSEG_WITH_CUDA"]
FLAGS += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (80, 90)]

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


@pytest.fixture(scope="module", params=SOURCES, ids=lambda source: source.stem)
def compiled(request, tmp_path_factory):
    """The object file of one source and what ptxas reported about it."""
    output = tmp_path_factory.mktemp("cuda") / f"{request.param.stem}.o"
    command = ["nvcc", *FLAGS, "-Xptxas", "-v", "-c", str(request.param), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    report = result.stdout + result.stderr
    assert result.returncode == 0, report
    return output, report


def find_cuobjdump():
    """cuobjdump from PATH, or the one that comes with Triton."""
    found = shutil.which("cuobjdump")
    if found is None and (triton := importlib.util.find_spec("triton")) is not None:
        bundled = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(bundled) if bundled.exists() else None
    return found


def resources(report):
    """(kernel, architecture) -> (stack bytes, spill stores, spill loads, registers)."""
    found = {}
    kernel = spills = None
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            kernel, spills = match.groups(), None
        elif kernel and (match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", line)):
            spills = tuple(map(int, match.groups()))
        elif kernel and (match := re.search(r"Used (\d+) registers", line)):
            found[kernel] = (*spills, int(match.group(1)))
            kernel = None
    return found


def test_without_spills_or_warnings(compiled):
    _, report = compiled
    kernels = resources(report)
    assert {arch for _, arch in kernels} == {"sm_80", "sm_90"}
    spilled = {kernel: used for kernel, used in kernels.items() if used[:3] != (0, 0, 0)}
    assert not spilled
    assert "warning" not in report


def test_norm_keeps_two_ctas_on_a_multiprocessor(compiled):
    output, report = compiled
    if "norm" not in output.stem:
        pytest.skip("other families have other limits")
    for (kernel, arch), (*_, registers) in resources(report).items():
        if re.search(r"(in_shared|_stream)I", kernel) and not re.search(r"(in_shared|_stream)Id", kernel):
            assert registers <= 64, (kernel, arch)


def test_packs_take_one_load(compiled):
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        pytest.skip("cuobjdump is neither on PATH nor with Triton")
    output, _ = compiled
    if "norm" not in output.stem:
        pytest.skip("written for the norm family")
    command = [cuobjdump, "-sass", "-arch", "sm_90", str(output)]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = dict(re.findall(r"Function : (\S+)\n(.*?)(?=Function : |\Z)", sass, flags=re.DOTALL))
    packed = {
        name: body
        for name, body in functions.items()
        if re.search(r"I(fLi4|dLi2|6__halfLi8|13__nv_bfloat16Li8)E", name)
    }
    assert len(packed) == 12  # three kernels, four element types
    for name, body in packed.items():
        assert "LDG.E.128" in body, name
        assert "STG.E.128" in body, name
        assert not re.search(r"\b(LDL|STL)\b", body), name
        if "in_shared" in name:
            assert "LDS.128" in body, name
            assert "UCGABAR_WAIT" in body, name  # the cluster's barrier is there on sm_90
