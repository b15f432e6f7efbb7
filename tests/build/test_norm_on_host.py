"""The CUDA kernels of the norm family run on the host, every variant against float64."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.build.host_build import build_on_host

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


def test_norm(tmp_path: Path) -> None:
    program = build_on_host("norm", tmp_path)
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
