"""Builds fastseg._C by CMake; all metadata is in pyproject.toml.

Environment: FASTSEG_CUDA=AUTO|ON|OFF, FASTSEG_CUDA_ARCHITECTURES (as CMAKE_CUDA_ARCHITECTURES, default "80-real;90"),
CMAKE_ARGS for anything else, CMAKE_BUILD_PARALLEL_LEVEL.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """One target, fastseg._C, without any torch in the build environment."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        if shutil.which("ninja"):
            configure += ["-G", "Ninja"]
        for option in ("FASTSEG_CUDA", "FASTSEG_CUDA_ARCHITECTURES"):
            if os.environ.get(option):
                configure.append(f"-D{option}={os.environ[option]}")
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        cache = build / "CMakeCache.txt"
        if cache.exists():
            cache.unlink()  # isolated builds put cmake, ninja and pybind11 in a new place each time
        subprocess.run(configure, check=True)
        parallel = [] if "CMAKE_BUILD_PARALLEL_LEVEL" in os.environ else ["--parallel", str(os.cpu_count() or 1)]
        subprocess.run(["cmake", "--build", str(build), *parallel], check=True)


setup(ext_modules=[Extension("fastseg._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
