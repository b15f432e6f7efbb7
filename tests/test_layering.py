"""Which part of the library may import which: docs/architecture.md, "Layers, and what each may know"."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastseg"

#: Part of the library: what it must not import.
FORBIDDEN = {
    **dict.fromkeys(
        ("nn", "models", "accelerate", "integrations", "stereo", "segmentation", "training", "io"),
        ("fastseg._C", "fastseg.backends", "fastseg.cli", "fastseg.reference"),
    ),
    "ops": ("fastseg._C", "fastseg.nn", "fastseg.models", "fastseg.stereo", "fastseg.segmentation", "fastseg.cli"),
    "reference": ("fastseg._C", "fastseg.backends", "fastseg.nn", "fastseg.models"),
    "backends": ("fastseg.nn", "fastseg.models", "fastseg.stereo", "fastseg.segmentation", "fastseg.cli"),
    "cli": ("fastseg._C",),
}
#: ``fastseg.backend("reference")`` also chooses the layers that a network is built of.
ALLOWED = {("models/layers.py", "fastseg.backends.select")}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # "from fastseg import ops" is an import of fastseg.ops.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_go_down(part: str) -> None:
    files = sorted((PACKAGE / part).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {module}"
        for file in files
        for module in imported(file)
        if any(f"{module}.".startswith(f"{below}.") for below in FORBIDDEN[part])
        and not any(str(file.relative_to(PACKAGE)) == name and module.startswith(what) for name, what in ALLOWED)
    ]
    assert not wrong


def test_one_file_knows_pybind11() -> None:
    files = [file for file in (ROOT / "csrc").rglob("*.*") if "pybind11" in file.read_text()]
    assert [file.name for file in files] == ["bindings.cpp"]
