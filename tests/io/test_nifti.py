"""NIfTI files: what is kept from file to file, orientation there and back, and what is refused with which words."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

nib = pytest.importorskip("nibabel")

from fastseg.io import (  # noqa: E402
    Volume,
    VolumeError,
    from_ras,
    load_labels,
    load_nifti,
    ras_spacing,
    save_nifti,
    to_ras,
)

SHAPE = (5, 6, 7)
# Axes to the left, to the back and down, then permuted: an orientation that nothing treats as its default.
OBLIQUE = nib.affines.from_matvec(np.array([[0, -1.2, 0.1], [-0.9, 0, 0], [0.05, 0, -3]]), [10, -20, 30])


def write(path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=2)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_round_trip_keeps_values_affine_and_header(tmp_path: Path, channels: int | None, ending: str) -> None:
    data = noise(*SHAPE) if channels is None else noise(*SHAPE, channels)
    volume = load_nifti(write(tmp_path / f"in{ending}", data))
    assert volume.data.shape == (channels or 1, *SHAPE)
    assert volume.data.dtype == np.float32
    out = tmp_path / f"out{ending}"
    save_nifti(out, volume.data if channels else volume.data[0], like=volume)

    before, after = nib.load(tmp_path / f"in{ending}"), nib.load(out)
    np.testing.assert_array_equal(after.get_fdata(), data)
    np.testing.assert_array_equal(after.affine, before.affine)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert after.header[field] == before.header[field]
    assert after.header.get_zooms() == before.header.get_zooms()
    np.testing.assert_array_equal(after.get_qform(), before.get_qform())
    np.testing.assert_array_equal(after.get_sform(), before.get_sform())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_codes_that_are_zero_stay_zero(tmp_path: Path) -> None:
    image = nib.Nifti1Image(noise(*SHAPE), np.eye(4))
    image.set_qform(None, code=0)
    image.set_sform(np.eye(4), code=2)
    nib.save(image, tmp_path / "in.nii")
    save_nifti(tmp_path / "out.nii", np.ones(SHAPE, np.uint8), like=load_nifti(tmp_path / "in.nii"))
    header = nib.load(tmp_path / "out.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 2)


@pytest.mark.parametrize(
    ("labels", "stored"),
    [([0, 4], np.uint8), ([0, 255], np.uint8), ([0, 256], np.int16), ([-1, 1], np.int16), ([0, 70000], np.int32)],
)
def test_labels_take_the_smallest_type(tmp_path: Path, labels: list[int], stored: type) -> None:
    volume = load_nifti(write(tmp_path / "in.nii", noise(*SHAPE) * 1000))
    data = np.full(SHAPE, labels[0])
    data[1, 2, 3] = labels[1]
    save_nifti(tmp_path / "out.nii", data, like=volume)
    written = nib.load(tmp_path / "out.nii")
    assert written.get_data_dtype() == stored
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)


def test_scaled_integers_are_read_in_their_unit(tmp_path: Path) -> None:
    image = nib.Nifti1Image(noise(*SHAPE) * 50, np.eye(4))
    image.set_data_dtype(np.int16)  # nibabel writes a slope
    nib.save(image, tmp_path / "in.nii")
    volume = load_nifti(tmp_path / "in.nii")
    np.testing.assert_allclose(volume.data[0], noise(*SHAPE) * 50, atol=0.01)
    save_nifti(tmp_path / "out.nii", np.full(SHAPE, 3), like=volume)
    assert (nib.load(tmp_path / "out.nii").get_fdata() == 3).all()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_orientation_there_and_back(codes: str) -> None:
    to_codes = nib.orientations.axcodes2ornt(codes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, flip) in enumerate(to_codes):
        affine[int(world), axis] = flip * (1.0, 2.0, 3.0)[int(world)]
    data = noise(2, *SHAPE)
    turned = to_ras(data, affine)
    expected = nib.as_closest_canonical(nib.Nifti1Image(np.moveaxis(data, 0, -1), affine)).get_fdata()
    np.testing.assert_array_equal(turned, np.moveaxis(expected, -1, 0))
    np.testing.assert_array_equal(from_ras(turned, affine), data)
    np.testing.assert_array_equal(from_ras(turned[0], affine), data[0])
    assert ras_spacing(affine) == (1.0, 2.0, 3.0)


def test_a_volume_without_a_file(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    save_nifti(tmp_path / "a.nii.gz", noise(2, *SHAPE), like=Volume.from_array(noise(2, *SHAPE), affine))
    volume = load_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, noise(2, *SHAPE))
    np.testing.assert_array_equal(volume.affine, affine)
    assert volume.header.get_xyzt_units()[0] == "mm"


def cut_off(path: Path) -> None:
    write(path, noise(40, 40, 40))
    path.write_bytes(path.read_bytes()[:2000])


def corrupt(path: Path) -> None:
    content = gzip.compress(b"not an image" * 100)
    path.write_bytes(content)


def with_nan(path: Path) -> None:
    data = noise(*SHAPE)
    data[0, 0, :2] = np.nan
    write(path, data)


REFUSED = {
    "missing": (lambda path: None, "there is no such file"),
    "folder": (lambda path: path.mkdir(), "this is a folder"),
    "text": (lambda path: path.write_text("hello"), "not a NIfTI file that can be read"),
    "other content": (corrupt, "not a NIfTI file that can be read"),
    "cut off": (cut_off, "the voxels cannot be read"),
    "slice": (lambda path: write(path, noise(8, 9)), r"shape \(8, 9\), expected a volume"),
    "one slice": (lambda path: write(path, noise(8, 9, 1)), "more than one slice"),
    "five axes": (lambda path: write(path, noise(4, 4, 4, 2, 3)), "expected a volume"),
    "not finite": (with_nan, "2 of 210 values are not finite"),
    "constant": (lambda path: write(path, np.full(SHAPE, 7, np.uint8)), "every voxel is 7"),
    "complex": (lambda path: write(path, noise(*SHAPE).astype(np.complex64)), "holds complex64, expected real numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_files(tmp_path: Path, case: str) -> None:
    make, words = REFUSED[case]
    path = tmp_path / "scan.nii.gz"
    make(path)
    with pytest.raises(VolumeError, match=words) as caught:
        load_nifti(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("values", "smallest"),
    [([0], np.uint8), ([3], np.uint8), ([0, 1, 2, 4], np.uint8), ([-1, 7], np.int16), ([0, 70000], np.int32)],
)
@pytest.mark.parametrize("stored", [np.int32, np.float32])
def test_labels_there_and_back(tmp_path: Path, values: list[int], smallest: type, stored: type) -> None:
    labels = np.random.default_rng(0).choice(values, SHAPE)
    read = load_labels(write(tmp_path / "in.nii.gz", labels.astype(stored)))
    np.testing.assert_array_equal(read.data, labels)
    assert read.data.dtype == smallest
    np.testing.assert_allclose(read.affine, OBLIQUE, rtol=1e-6)
    save_nifti(tmp_path / "out.nii", read.data, like=read)
    np.testing.assert_array_equal(load_labels(tmp_path / "out.nii").data, labels)
    np.testing.assert_array_equal(load_labels(tmp_path / "out.nii").affine, read.affine)


def test_labels_with_a_scale_and_with_an_axis_of_one(tmp_path: Path) -> None:
    stored = np.arange(210).reshape(*SHAPE, 1) % 5
    image = nib.Nifti1Image(stored.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2, 1)
    nib.save(image, tmp_path / "a.nii")
    assert nib.load(tmp_path / "a.nii").dataobj.slope == 2  # or nothing was scaled
    np.testing.assert_array_equal(load_labels(tmp_path / "a.nii").data, 2 * stored[..., 0] + 1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full(SHAPE, 0.5, np.float32), r"210 of 210 values are no whole numbers, such as 0\.5, expected labels"),
        (np.zeros((*SHAPE, 2), np.uint8), r"shape \(5, 6, 7, 2\), expected labels of \(X, Y, Z\): one channel"),
        (np.full(SHAPE, np.nan, np.float32), "210 of 210 values are not finite"),
        (np.full(SHAPE, 2.0**40), "labels from 1099511627776 to 1099511627776 do not fit in int32"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, data: np.ndarray, words: str) -> None:
    path = write(tmp_path / "a.nii", data)
    with pytest.raises(VolumeError, match=words) as caught:
        load_labels(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("case", [name for name in REFUSED if name not in ("constant", "not finite")])
def test_files_that_hold_no_labels(tmp_path: Path, case: str) -> None:
    make, words = REFUSED[case]
    make(tmp_path / "scan.nii.gz")
    with pytest.raises(VolumeError, match=words):
        load_labels(tmp_path / "scan.nii.gz")


def test_an_affine_without_inverse_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(noise(*SHAPE), None)
    image.header["sform_code"] = 2
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = [1, 0, 0, 0]
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(VolumeError, match="affine has no inverse"):
        load_nifti(tmp_path / "a.nii")


def test_refused_writes_leave_nothing(tmp_path: Path) -> None:
    volume = Volume.from_array(noise(1, *SHAPE), np.eye(4))
    with pytest.raises(VolumeError, match=r"ends in \.nii"):
        save_nifti(tmp_path / "a.mha", volume.data, like=volume)
    with pytest.raises(VolumeError, match="expected the grid"):
        save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2)), like=volume)
    with pytest.raises(VolumeError, match="cannot be written"):
        save_nifti(tmp_path / "no-folder" / "a.nii", volume.data, like=volume)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume.from_array(noise(1, *SHAPE), np.eye(4))
    path = tmp_path / "a.nii"
    path.write_text("precious")

    def disk_full(image: object, target: Path) -> None:
        Path(target).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", disk_full)
    with pytest.raises(VolumeError, match="No space left"):
        save_nifti(path, volume.data, like=volume)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]
    assert path.read_text() == "precious"
