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


@pytest.fixture(
    scope="module",
    params=[pytest.param(source, id=source.stem, marks=pytest.mark.xdist_group(source.stem)) for source in SOURCES],
)
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


def machine_code(output):
    """Kernel -> its instructions on sm_90."""
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        pytest.skip("cuobjdump is neither on PATH nor with Triton")
    command = [cuobjdump, "-sass", "-arch", "sm_90", str(output)]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"Function : (\S+)\n(.*?)(?=Function : |\Z)", sass, flags=re.DOTALL))


def test_norm_takes_packs_with_one_load(compiled):
    output, _ = compiled
    if "norm" not in output.stem:
        pytest.skip("written for the norm family")
    packed = {
        name: body
        for name, body in machine_code(output).items()
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


def test_depthwise_takes_vectors_of_channels_with_one_load(compiled):
    output, _ = compiled
    if output.stem != "depthwise_channels_last":
        pytest.skip("the kernels of channels-last images")
    kernels = machine_code(output)
    assert len(kernels) == 42  # two kernels, three element types, seven kernel widths and strides
    for name, body in kernels.items():
        assert "LDG.E.128" in body, name
        if "convolve" in name:
            assert "STG.E.128" in body and "LDS.128" in body, name
        assert not re.search(r"\b(LDL|STL)\b", body), name


def test_depthwise_rows_read_their_weights_four_at_a_time(compiled):
    output, _ = compiled
    if not output.stem.startswith("depthwise_rows"):
        pytest.skip("the kernels of rows")
    for name, body in machine_code(output).items():
        if not re.search(r"rowsI(f|6__half|13__nv_bfloat16)Li\dELi1E", name):  # one tap along y
            assert "LDS.128" in body, name
        assert not re.search(r"\b(LDL|STL)\b", body), name
