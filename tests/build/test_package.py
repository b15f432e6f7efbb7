"""The sdist and the wheel: what is in them, what building them needs, and that the wheel works where it is alone.

The kernels are compiled once more: without CUDA, which tests/build/test_cuda_*.py look after, and not optimized, which
takes a tenth of the time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

# One group: workers of pytest-xdist would build it once each.
pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]

ROOT = Path(__file__).resolve().parents[2]
FORBID_TORCH = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "triton"):
            raise ImportError(f"{name} must not be needed to build")
sys.meta_path.insert(0, Forbidden())
"""
TOOLS = ("cmake", "ninja", "pybind11", "setuptools")
# With the tools of the build here nothing is downloaded; otherwise build sets up its isolated environment.
ISOLATION = ["--no-isolation"] if all(importlib.util.find_spec(tool) for tool in TOOLS) else []


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None, succeeds: bool = True) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=1500)
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == succeeds, output[-5000:]
    return output


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git tracks, as a fresh clone has them: a file that nobody added is missed here."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    folder = tmp_path_factory.mktemp("package") / "checkout"
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def build_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Neither the build nor what it starts can import torch."""
    folder = tmp_path_factory.mktemp("without_torch")
    (folder / "sitecustomize.py").write_text(FORBID_TORCH)
    env = {name: value for name, value in os.environ.items() if name not in ("CMAKE_ARGS", "PYTHONPATH")}
    env.update(PYTHONPATH=str(folder), FASTSEG_CUDA="OFF", CMAKE_BUILD_PARALLEL_LEVEL="2")
    env["CMAKE_ARGS"] = "-DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0"
    refused = run(sys.executable, "-c", "import torch", cwd=folder, env=env, succeeds=False)
    assert "must not be needed to build" in refused
    return env


@pytest.fixture(scope="module")
def built(checkout: Path, build_environment: dict[str, str]) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it and not from the checkout."""
    dist = checkout.parent / "dist"
    run(sys.executable, "-m", "build", *ISOLATION, "--outdir", dist, checkout, cwd=checkout, env=build_environment)
    wheel, sdist = sorted(dist.iterdir(), key=lambda file: file.suffix == ".gz")
    return sdist, wheel


def version(checkout: Path) -> str:
    found = re.search(r'^version = "(.+)"', (checkout / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_names(built: tuple[Path, Path], checkout: Path) -> None:
    sdist, wheel = built
    assert sdist.name == f"fastseg_kernels-{version(checkout)}.tar.gz"
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert re.fullmatch(rf"fastseg_kernels-{re.escape(version(checkout))}-{python}-{python}-\w+\.whl", wheel.name)


def test_sdist_has_what_the_build_reads(built: tuple[Path, Path], checkout: Path) -> None:
    with tarfile.open(built[0]) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "README.md"} <= members
    sources = {str(path.relative_to(checkout)) for path in (checkout / "csrc").rglob("*") if path.is_file()}
    assert sources and sources <= members
    assert not [name for name in members if name.endswith((".so", ".pyc"))]


def test_wheel_has_the_module_and_no_tests(built: tuple[Path, Path], checkout: Path) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        members = set(archive.namelist())
        about = next(name for name in members if name.endswith(".dist-info/METADATA"))
        text = archive.read(about).decode()
    compiled = [name for name in members if name.endswith(".so")]
    assert len(compiled) == 1 and re.fullmatch(r"fastseg/_C\.[\w-]+\.so", compiled[0])
    packaged = {name for name in members if name.startswith("fastseg/")} - set(compiled)
    python = {str(path.relative_to(checkout)) for path in (checkout / "fastseg").rglob("*.py")}
    assert packaged == python | {"fastseg/py.typed", "fastseg/_C.pyi"}
    assert {name.partition("/")[0] for name in members} == {"fastseg", about.partition("/")[0]}
    required = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", text, re.MULTILINE)
    assert sorted(required) == ["numpy", "torch"]


# ---- the wheel where it is alone


def requirements(name: str, found: set[str]) -> Iterator[metadata.Distribution]:
    """A distribution and what it needs without extras, but not Triton."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found or key == "triton":
        return
    found.add(key)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:  # for another platform or Python
        return
    yield distribution
    for line in distribution.requires or ():
        word = re.match(r"[\w.-]+", line)
        if word is not None and "extra ==" not in line:
            yield from requirements(word[0], found)


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel, torch and numpy with what they need, and neither Triton nor the rest."""
    folder = tmp_path_factory.mktemp("installed")
    links = folder / "links"
    links.mkdir()
    found: set[str] = set()
    for distribution in (*requirements("torch", found), *requirements("numpy", found)):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = Path(str(distribution.locate_file(top)))
            if target.exists() and not (links / top).exists():
                (links / top).symlink_to(target.resolve())
    # numpy's libraries of the wheel lie beside it; torch's CUDA packages are found through its real path.
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "torch.pth").write_text(f"{links}\n")
    command = ["install", "--no-deps", "--no-index", "--quiet", built[1]]
    run(sys.executable, "-m", "pip", "--python", python, *command, cwd=folder)
    return python


def test_wheel_runs_without_triton(installed: Path, tmp_path: Path) -> None:
    code = """
import importlib.util, torch
assert importlib.util.find_spec("triton") is None and importlib.util.find_spec("scipy") is None
import fastseg
x = torch.randn(2, 3, 8, 9, requires_grad=True)
weight = torch.randn(3, requires_grad=True)
fastseg.ops.instance_norm_act(x, weight).sum().backward()
with fastseg.backend("cpu"):
    y = fastseg.ops.instance_norm_act(x, weight)
torch.testing.assert_close(y, fastseg.reference.instance_norm_act(x, weight))
fastseg.explain("instance_norm_act", x)
print(fastseg.__version__, fastseg.__file__)
"""
    # -I: neither the working directory nor PYTHONPATH may lend the sources of the checkout.
    output = run(installed, "-I", "-c", code, cwd=tmp_path)
    assert re.search(r"^ +cpu +runs$", output, re.MULTILINE)
    assert str(installed.parents[1]) in output.splitlines()[-1]
    triton = run(
        installed, "-I", "-c", "import fastseg.backends.availability as a; print(a.TRITON_REFUSAL)", cwd=tmp_path
    )
    assert triton.startswith("triton is not installed")


def test_command_line_of_the_wheel(installed: Path, checkout: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = installed.parent / "fastseg"
    assert run(command, "--version", cwd=tmp_path, env=env).strip() == f"fastseg {version(checkout)}"
    assert "kernels" in run(command, "info", cwd=tmp_path, env=env)


# ---- FASTSEG_CUDA


def configure(source: Path, build: Path, option: str, env: dict[str, str]) -> str:
    """What CMake says, on one line, of a configuration that must fail."""
    pybind11 = pytest.importorskip("pybind11")
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    options = [f"-D{option}", f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    output = run(cmake, "-S", source, "-B", build, *options, cwd=source, env=env, succeeds=False)
    return " ".join(output.split())


def test_cuda_on_without_nvcc_fails_loudly(checkout: Path, tmp_path: Path) -> None:
    """PATH without nvcc: every tool of it but that one, behind links."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for tool in Path(folder).iterdir() if Path(folder).is_dir() else ():
            if not (tools / tool.name).is_symlink() and tool.name != "nvcc":
                (tools / tool.name).symlink_to(tool)
    env = {name: value for name, value in os.environ.items() if name not in ("CUDACXX", "CUDA_PATH", "CUDA_HOME")}
    env["PATH"] = str(tools)
    said = configure(checkout, tmp_path / "build", "FASTSEG_CUDA=ON", env)
    assert "FASTSEG_CUDA=ON, but no CUDA compiler was found. Put nvcc on PATH, set CUDACXX, or use AUTO." in said


def test_cuda_nonsense_fails(checkout: Path, tmp_path: Path) -> None:
    said = configure(checkout, tmp_path / "build", "FASTSEG_CUDA=nonsense", dict(os.environ))
    assert "FASTSEG_CUDA is 'nonsense', expected AUTO, ON or OFF" in said
