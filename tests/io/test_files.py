"""Formats are imported with their first use, and files appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastseg.io
from fastseg.io.files import (
    FileError,
    check_ending,
    first_bytes,
    folders_with,
    found_by,
    listed,
    saving,
    written_together,
    written_whole,
)

# A process in which the extras are not installed.
WITHOUT_EXTRAS = """
import sys
for name in ("nibabel", "PIL", "yaml", "trimesh", "cv2"):
    sys.modules[name] = None
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_needs_no_extra() -> None:
    """Neither do calibrations as plain text, and everything in memory."""
    python(
        "import fastseg.io, fastseg.stereo\n"
        "from fastseg.io import FileError, load_calibration, written_whole\n"
        "import numpy as np\n"
        "points = fastseg.stereo.triangulate(np.ones((3, 4)), focal_length=2, baseline=1)\n"
        "assert len(fastseg.stereo.surface_mesh(points).faces) == 12\n"
        "from fastseg.segmentation import labels, preprocess\n"
        "assert preprocess.zscore(labels.regions_of(np.array([[0, 4]])) * 1.0).shape == (3, 1, 2)\n"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("load_nifti", 'NIfTI files need nibabel: pip install "fastseg-kernels[segmentation]"'),
        ("load_brats", 'NIfTI files need nibabel: pip install "fastseg-kernels[segmentation]"'),
        ("load_lgg", 'Images need Pillow: pip install "fastseg-kernels[stereo]"'),
        ("load_image", 'Images need Pillow: pip install "fastseg-kernels[stereo]"'),
        ("load_disparity", 'Images need Pillow: pip install "fastseg-kernels[stereo]"'),
        ("save_mesh", 'PLY files need trimesh: pip install "fastseg-kernels[stereo]"'),
    ],
)
def test_a_missing_extra_is_named(name: str, words: str) -> None:
    said = python(f"try:\n    from fastseg.io import {name}\nexcept ImportError as error:\n    print(error)\n")
    assert said.strip() == words


def test_every_name_is_there() -> None:
    for module in ("nibabel", "PIL", "trimesh"):
        pytest.importorskip(module)
    assert all(getattr(fastseg.io, name) is not None for name in fastseg.io.__all__)
    with pytest.raises(AttributeError, match=r"'fastseg\.io' has no attribute 'load_dicom'"):
        fastseg.io.load_dicom  # noqa: B018


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("precious")
    with pytest.raises(KeyError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "precious"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_files_of_one_run_appear_together_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with pytest.raises(KeyError), written_together(folder) as staged:
        (staged / "a.txt").write_text("half")
        raise KeyError
    assert not folder.exists()
    with written_together(folder) as staged:
        (staged / "a.txt").write_text("first")
        assert staged.parent == folder and not (folder / "a.txt").exists()
    (folder / "z.txt").mkdir()
    with pytest.raises(FileError, match=r"z\.txt: this is a folder"), written_together(folder) as staged:
        (staged / "a.txt").write_text("second")
        (staged / "z.txt").write_text("second")
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "z.txt"]
    assert (folder / "a.txt").read_text() == "first"


def test_an_error_about_the_temporary_file_names_the_one_that_was_asked_for(tmp_path: Path) -> None:
    path, folder, other = tmp_path / "a.txt", tmp_path / "folder", tmp_path / "other.txt"
    with pytest.raises(FileNotFoundError) as caught, written_whole(path):
        pass  # nothing written: the rename fails
    assert caught.value.filename == str(path) and caught.value.filename2 is None
    with pytest.raises(FileNotFoundError) as caught, written_together(folder) as staged:
        (staged / "none" / "a.txt").write_text("")
    assert caught.value.filename == str(folder / "none" / "a.txt")
    for writer in (written_whole(path), written_together(folder)):
        with pytest.raises(FileNotFoundError) as caught, writer:
            other.read_text()
        assert caught.value.filename == str(other)


def test_what_the_system_refuses_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    for path, reason in ((folder, "Is a directory"), (tmp_path / "none" / "a.txt", "No such file or directory")):
        with pytest.raises(FileError) as caught, saving(path, FileError) as temporary:
            temporary.write_text("text")
        assert str(caught.value) == f"{path}: cannot be written ({reason})"
    assert list(tmp_path.iterdir()) == [folder]


def test_files_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, reason in (
        (tmp_path, "this is a folder"),
        (tmp_path / "none", "there is no such file"),
        (tmp_path / "empty", "the file is empty"),
        (tmp_path / ("long" * 100), "cannot be read (File name too long)"),
    ):
        with pytest.raises(FileError) as caught:
            first_bytes(path, FileError)
        assert str(caught.value) == f"{path}: {reason}"
    (tmp_path / "full").write_bytes(b"abc")
    assert first_bytes(tmp_path / "full", FileError) == b"abc"


def test_other_cases_are_no_error_but_an_unreadable_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(folder: Path) -> list[Path]:
        return folders_with(folder, lambda name: name == "wanted", "a case", FileError)

    (tmp_path / "inner").mkdir()
    assert found_by(find, tmp_path) == []
    (tmp_path / "inner" / "wanted").touch()
    assert found_by(find, tmp_path) == [tmp_path / "inner"]
    scandir = os.scandir

    def refusing(path: str | Path) -> object:
        if Path(path).name == "inner":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(FileError, match=r"inner: cannot be read \(Permission denied\)"):
        found_by(find, tmp_path)


def test_endings() -> None:
    check_ending(Path("a.PLY"), FileError, ".ply")
    with pytest.raises(FileError, match=r"^a\.obj: expected a name that ends in \.ply or \.stl$"):
        check_ending(Path("a.obj"), FileError, ".ply", ".stl")


def test_folders_are_found_through_links_and_once(tmp_path: Path) -> None:
    data, split = tmp_path / "data", tmp_path / "split"
    for name in ("a", "b", "c"):
        (data / name).mkdir(parents=True)
        (data / name / "x.txt").touch()
    split.mkdir()
    (split / "one").symlink_to(data / "b")
    (split / "two").symlink_to(data / "b")
    (data / "c" / "up").symlink_to(data)  # without end, if it were followed

    def found(folder: Path) -> list[str]:
        paths = folders_with(folder, lambda name: name == "x.txt", "an x.txt", FileError)
        return [str(path.relative_to(folder)) for path in paths]

    assert found(data) == ["a", "b", "c"]
    assert found(split) == ["one"]
    assert found(data / "a") == ["."]
    with pytest.raises(FileError, match="neither this folder nor those in it hold a y"):
        folders_with(data, lambda name: name == "y", "a y", FileError)


def test_values_are_listed() -> None:
    assert listed([]) == "" and listed([3]) == "3" and listed("abcde") == "a, b, c, d, e"
    assert listed(range(7)) == "0, 1, 2, 3, 4 and 2 more" and listed("abc", 2) == "a, b and 1 more"
