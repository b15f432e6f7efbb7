"""``fastseg mesh``: a label file to a surface with its volume, and one sentence for what cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fastseg.cli import errors
from fastseg.cli.main import main

nib = pytest.importorskip("nibabel")
trimesh = pytest.importorskip("trimesh")
pytest.importorskip("skimage")

SPACING = np.array([1.0, 1.0, 2.0])
RADII = {2: 16.0, 4: 11.0, 1: 6.0}  # mm: a tumour of balls in one another


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a segmentation of BraTS."""
    monkeypatch.chdir(tmp_path)
    distance = np.linalg.norm((np.indices((40, 42, 22)).T - [20, 21, 10]) * SPACING, axis=-1).T
    labels = np.zeros(distance.shape, np.uint8)
    for label, radius in RADII.items():
        labels[distance < radius] = label
    nib.save(nib.Nifti1Image(labels, np.diag([*SPACING, 1.0])), "seg.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros_like(labels), np.eye(4)), "empty.nii.gz")
    return tmp_path


def sphere(outer: float, inner: float = 0) -> float:
    return 4 / 3 * np.pi * (outer**3 - inner**3)


def volume_in(text: str) -> float:
    match = re.search(r"volume\s+([\d.]+) ml", text)
    assert match
    return 1000 * float(match[1])


@pytest.mark.parametrize(
    ("options", "said", "volume"),
    [
        ([], "all labels", sphere(16)),
        (["--label", "WT"], "labels 1, 2, 4", sphere(16)),
        (["--label", "tc"], "labels 1, 4", sphere(11)),
        (["--label", "4", "--label", "1"], "labels 1, 4", sphere(11)),
        (["--label", "ET"], "label 4", sphere(11, 6)),
        (["--label", "1", "--label", "ET", "--step", "2", "--smooth", "0"], "labels 1, 4", sphere(11)),
    ],
)
@pytest.mark.parametrize("ending", ["ply", "obj", "stl"])
def test_volume_and_file(
    options: list[str], said: str, volume: float, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mesh", "seg.nii.gz", "-o", f"tumour.{ending}", *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{said}: ")
    assert volume_in(printed) == pytest.approx(volume, rel=0.08)
    read = trimesh.load(f"tumour.{ending}")
    assert read.is_watertight and read.volume == pytest.approx(volume_in(printed), abs=6)
    assert f"{len(read.faces)} triangles" in printed
    area = re.search(r"surface\s+([\d.]+) cm2", printed)
    assert area and float(area[1]) == pytest.approx(read.area / 100, abs=0.006)
    np.testing.assert_allclose(read.center_mass, np.array([20, 21, 10]) * SPACING, atol=0.2)


def test_the_volume_of_the_voxels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mesh", "seg.nii.gz", "-o", "a.ply", "--label", "ET"]) == 0
    count = np.count_nonzero(np.asarray(nib.load("seg.nii.gz").dataobj) == 4)
    assert f"(its voxels: {2 * count / 1000:.2f} ml)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seg.nii.gz", "-o", "a.vtk"], "a.vtk: expected a name that ends in .ply or .obj or .stl"),
        (["none.nii.gz", "-o", "a.ply"], "none.nii.gz: there is no such file"),
        (["seg.nii.gz", "-o", "a.ply", "--label", "3"], "no voxel has label 3: there are labels 1, 2, 4"),
        (
            ["empty.nii.gz", "-o", "a.ply"],
            "empty.nii.gz: label_mesh: no voxel has a label other than 0: there are",
        ),
        (
            ["seg.nii.gz", "-o", "a.ply", "--label", "core"],
            "argument --label: label is 'core', expected a whole",
        ),
        (["seg.nii.gz", "-o", "a.ply", "--label", "0"], "label is '0', expected a whole number other than 0"),
        (["seg.nii.gz", "-o", "a.ply", "--step", "60"], "step is 60, but no block of 60 voxels a side is half full"),
        (["seg.nii.gz", "-o", "none/a.ply"], "none/a.ply: cannot be written"),
    ],
)
def test_one_sentence_and_no_file(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert main(["mesh", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.startswith("fastseg mesh: ") and printed.err.count("\n") == 1
    assert printed.out == "" and sorted(folder.iterdir()) == before


@pytest.mark.parametrize("options", [[], ["-o", "a.ply", "--smooth", "-1"], ["-o", "a.ply", "--step", "0"]])
def test_options_that_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["mesh", "seg.nii.gz", *options])
    assert caught.value.code == 2 and "fastseg mesh: " in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(errors, "installed", lambda module: module != "skimage")
    assert main(["mesh", "seg.nii.gz", "-o", "a.ply"]) == 2
    assert 'skimage is not installed: pip install "fastseg-kernels[segmentation]"' in capsys.readouterr().err
