"""Cases of BraTS: names of all years, the order of the sequences, label 3 of the later years, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

nib = pytest.importorskip("nibabel")

from fastseg.io import VolumeError, find_brats, load_brats, load_nifti, save_nifti  # noqa: E402

SHAPE = (5, 6, 7)
LPS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])  # as the files of BraTS have it
OLD, NEW = ("_t1", "_t1ce", "_t2", "_flair"), ("-t1n", "-t1c", "-t2w", "-t2f")


def write(path: Path, data: np.ndarray, affine: np.ndarray = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def sequence(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 1000, SHAPE).astype(np.int16)


def labels(*values: int) -> np.ndarray:
    return np.random.default_rng(9).choice(values, SHAPE).astype(np.uint8)


def case(folder: Path, endings: tuple[str, ...] = OLD, name: str = "BraTS_001", suffix: str = ".nii.gz") -> Path:
    for number, ending in enumerate(endings):
        write(folder / f"{name}{ending}{suffix}", sequence(number))
    return folder


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("endings", [OLD, NEW, tuple(e.upper() for e in OLD), ("-T1n", "-t1C", "-T2W", "-t2f")])
def test_the_order_of_the_sequences(tmp_path: Path, endings: tuple[str, ...], suffix: str) -> None:
    read = load_brats(case(tmp_path / "folder", endings, suffix=suffix))
    assert read.name == "BraTS_001" and read.labels is None and not read.enhancing_was_3
    assert read.volume.data.shape == (4, *SHAPE) and read.volume.data.dtype == np.float32
    for number, data in enumerate(read.volume.data):
        np.testing.assert_array_equal(data, sequence(number))
    assert list(read.sequences) == ["T1", "T1ce", "T2", "FLAIR"]
    assert [path.name for path in read.sequences.values()] == [f"BraTS_001{ending}{suffix}" for ending in endings]
    np.testing.assert_array_equal(read.volume.affine, LPS)


def test_labels_of_the_earlier_years_and_back_to_a_file(tmp_path: Path) -> None:
    known = labels(0, 1, 2, 4)
    write(case(tmp_path) / "BraTS_001_seg.nii.gz", known.astype(np.int16))
    read = load_brats(tmp_path)
    assert read.labels is not None and read.labels.dtype == np.uint8 and not read.enhancing_was_3
    np.testing.assert_array_equal(read.labels, known)
    save_nifti(tmp_path / "out.nii.gz", read.labels, like=read.volume)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj), known)
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii.gz").affine, LPS)
    save_nifti(tmp_path / "all.nii.gz", read.volume.data, like=read.volume)
    np.testing.assert_array_equal(load_nifti(tmp_path / "all.nii.gz").data, read.volume.data)


def test_label_3_of_the_later_years_becomes_4(tmp_path: Path) -> None:
    known = labels(0, 1, 2, 3)
    write(case(tmp_path, NEW) / "BraTS_001-seg.nii.gz", known)
    read = load_brats(tmp_path)
    assert read.enhancing_was_3 and read.labels is not None
    np.testing.assert_array_equal(read.labels, np.array([0, 1, 2, 4])[known])


def test_a_healthy_brain_has_labels_of_zero(tmp_path: Path) -> None:
    write(case(tmp_path) / "BraTS_001_seg.nii.gz", np.zeros(SHAPE, np.uint8))
    read = load_brats(tmp_path)
    assert read.labels is not None and not read.labels.any()


def test_files_of_two_names_take_the_name_of_the_folder(tmp_path: Path) -> None:
    case(tmp_path / "patient", OLD[:3])
    write(tmp_path / "patient" / "other_flair.nii.gz", sequence(3))
    write(tmp_path / "patient" / "W39_1998.09.19_Segm.nii", labels(0, 2))  # as in case 355 of BraTS 2020
    read = load_brats(tmp_path / "patient")
    assert read.name == "patient" and read.labels is not None and set(np.unique(read.labels)) == {0, 2}


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    case(tmp_path)
    (tmp_path / "._BraTS_001_t1.nii.gz").write_bytes(b"\0\5\26\7")  # what macOS leaves on foreign disks
    (tmp_path / "notes_t1.txt").write_text("hello")
    (tmp_path / "x_t2.nii").mkdir()
    write(tmp_path / "BraTS_001_t1ce_brain.nii.gz", sequence(5))
    np.testing.assert_array_equal(load_brats(tmp_path).volume.data[0], sequence(0))


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(missing=st.sets(st.sampled_from(range(4)), min_size=1, max_size=3), new=st.booleans())
def test_all_missing_sequences_are_named(
    tmp_path_factory: pytest.TempPathFactory, missing: set[int], new: bool
) -> None:
    folder = tmp_path_factory.mktemp("case")
    for number, ending in enumerate(NEW if new else OLD):
        if number not in missing:
            write(folder / f"A{ending}.nii", sequence(number))
    with pytest.raises(VolumeError, match="there is no file for") as caught:
        load_brats(folder)
    for number, name in enumerate(("T1 (", "T1ce (", "T2 (", "FLAIR (")):
        assert (name in str(caught.value)) == (number in missing)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(VolumeError) as caught:
        load_brats(folder)
    for word in words:
        assert word in str(caught.value)


def test_two_files_for_one_sequence(tmp_path: Path) -> None:
    write(case(tmp_path) / "BraTS_001_T1CE.nii", sequence(1))
    refused(tmp_path, "several files for T1ce, BraTS_001_T1CE.nii and BraTS_001_t1ce.nii.gz")


def test_two_kinds_of_names(tmp_path: Path) -> None:
    case(tmp_path, (*OLD[:3], NEW[3]))
    refused(tmp_path, "BraTS_001_t2.nii.gz is named as in BraTS up to 2021 and BraTS_001-t2f.nii.gz as from 2023 on")


@pytest.mark.parametrize("ending", ["_t2", "_seg"])
def test_sizes_that_differ(tmp_path: Path, ending: str) -> None:
    write(case(tmp_path) / f"BraTS_001{ending}.nii.gz", np.arange(5 * 6 * 8).reshape(5, 6, 8).astype(np.int16))
    refused(tmp_path, f"BraTS_001{ending}.nii.gz: 5 x 6 x 8 voxels, expected those of BraTS_001_t1.nii.gz, 5 x 6 x 7")


@pytest.mark.parametrize("ending", ["_flair", "_seg"])
def test_affines_that_differ(tmp_path: Path, ending: str) -> None:
    moved = LPS.copy()
    moved[0, 3] = 3
    write(case(tmp_path) / f"BraTS_001{ending}.nii.gz", labels(0, 1), moved)
    refused(
        tmp_path, f"BraTS_001{ending}.nii.gz: the affine is [[-1.0, 0.0, 0.0, 3.0], ", "up to 3 mm apart",
        "that of BraTS_001_t1.nii.gz [[-1.0, 0.0, 0.0, 0.0], ",
    )  # fmt: skip


def test_affines_that_are_rounded_are_one(tmp_path: Path) -> None:
    rounded = LPS.copy()
    rounded[:3, 3] += 0.01
    write(case(tmp_path) / "BraTS_001_flair.nii.gz", sequence(3), rounded)
    np.testing.assert_array_equal(load_brats(tmp_path).volume.affine, LPS)


@pytest.mark.parametrize(
    ("endings", "values", "words"),
    [
        (OLD, (0, 1, 3), "labels 3, expected 0, 1, 2, 4 of BraTS up to 2021"),
        (NEW, (0, 1, 4), "labels 4, expected 0, 1, 2, 3 of BraTS from 2023 on"),  # 4 is the resection cavity there
        (OLD, tuple(range(20)), "labels 3, 5, 6, 7, 8 and 11 more, expected"),
    ],
)
def test_labels_that_are_not_of_brats(
    tmp_path: Path, endings: tuple[str, ...], values: tuple[int, ...], words: str
) -> None:
    write(case(tmp_path, endings) / "BraTS_001_seg.nii.gz", labels(*values))
    refused(tmp_path, f"BraTS_001_seg.nii.gz: {words}")


def test_several_channels_in_one_file(tmp_path: Path) -> None:
    write(case(tmp_path) / "BraTS_001_t2.nii.gz", np.stack([sequence(0), sequence(1)], -1))
    refused(tmp_path, "BraTS_001_t2.nii.gz: 2 channels, expected one: this is the file of T2")


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    for name, words in (("none", "none: there is no such folder"), ("file", "file: this is a file")):
        refused(tmp_path / name, words)
        with pytest.raises(VolumeError, match=words):
            find_brats(tmp_path / name)


def test_cases_are_found_at_any_depth(tmp_path: Path) -> None:
    made = [case(tmp_path / name) for name in ("HGG/b", "HGG/a", "LGG/deep/c")]
    write(tmp_path / "predictions" / "a_seg.nii.gz", labels(0, 1))  # no sequence: no case
    case(tmp_path / "LGG" / "half", OLD[:1])  # load_brats says what is missing
    case(tmp_path / ".hidden")
    assert find_brats(tmp_path) == sorted([*made, tmp_path / "LGG" / "half"])
    assert find_brats(str(made[0])) == [made[0]]
    with pytest.raises(VolumeError, match="neither this folder nor those in it hold a case: files such as"):
        find_brats(tmp_path / "predictions")
