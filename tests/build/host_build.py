"""Builds CUDA sources for the host with cuda_on_host/; needs nvcc for its headers only."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST = Path(__file__).resolve().parent / "cuda_on_host"

FLAGS = ["-x", "c++", "-std=c++17", "-O1", "-I", str(HOST), "-I", str(ROOT / "csrc" / "include"), "-DFASTSEG_WITH_CUDA"]
FLAGS += ["-Xcompiler", "-fPIC,-include,cuda_on_host.h"]


def build_on_host(family: str, folder: Path, *link_flags: str) -> Path:
    """cuda_on_host/<family>.cpp with csrc/cuda/<family>*.cu, linked into a file of that name in ``folder``."""
    sources = [HOST / f"{family}.cpp", *sorted((ROOT / "csrc" / "cuda").glob(f"{family}*.cu"))]

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.name}.o")
        done = subprocess.run(
            ["nvcc", *FLAGS, "-c", str(source), "-o", target], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    output = folder / family
    subprocess.run(["nvcc", "-cudart", "none", *link_flags, *objects, "-o", str(output)], check=True)
    return output
