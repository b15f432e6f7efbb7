"""Disparity and depth maps: exact round trips, what is unknown, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("PIL")

from fastseg.io import ImageError, load_disparity, load_image, save_depth_png, save_image, save_npy, save_pfm
from tests.support import data_file

MAPS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
ANY_FLOAT32 = hnp.arrays(np.float32, MAPS, elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
INF, NAN = np.inf, np.nan
in_one_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_folder
@given(values=ANY_FLOAT32)
def test_pfm_round_trip(tmp_path: Path, values: np.ndarray) -> None:
    """Bit by bit as an image; as a disparity map what is not finite is NaN."""
    path = tmp_path / "a.pfm"
    save_pfm(path, values)
    read = load_image(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(np.signbit(read), np.signbit(values))
    np.testing.assert_array_equal(load_disparity(path), np.where(np.isfinite(values), values, NAN))


def test_pfm_bytes(tmp_path: Path) -> None:
    """The format's own words: little endian by the sign of the scale, the bottom row first."""
    save_pfm(tmp_path / "a.pfm", np.array([[1, 2, INF], [4, 5, NAN]], np.float64))
    expected = np.array([4, 5, NAN, 1, 2, INF], "<f4").tobytes()
    assert (tmp_path / "a.pfm").read_bytes() == b"Pf\n3 2\n-1.0\n" + expected


def test_pfm_of_others(tmp_path: Path) -> None:
    """Big endian, and the scale that Middlebury's files have, which does not belong to the values."""
    (tmp_path / "a.pfm").write_bytes(b"Pf\n2 1\n0.003922\n" + np.array([7.5, INF], ">f4").tobytes())
    np.testing.assert_array_equal(load_disparity(tmp_path / "a.pfm"), [[7.5, NAN]])


@in_one_folder
@given(values=ANY_FLOAT32)
def test_npy_round_trip(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    save_npy(path, values)
    np.testing.assert_array_equal(np.load(path), values)
    np.testing.assert_array_equal(load_disparity(path), np.where(np.isfinite(values), values, NAN))


def test_npy_dtypes(tmp_path: Path) -> None:
    for values in (np.array([[0, -3]], np.int16), np.array([[0.1, 1e300]]), np.array([[0.5, NAN]], ">f8")):
        save_npy(tmp_path / "a.npy", values)
        read = load_disparity(tmp_path / "a.npy")
        assert read.dtype == np.float32 and read.dtype.isnative
        expected = [[np.float32(v) if abs(v) < 1e38 else NAN for v in values[0]]]
        np.testing.assert_array_equal(read, expected)
    save_npy(tmp_path / "a.npy", np.array([[24, -16]], np.int16))  # OpenCV's fixed point
    np.testing.assert_array_equal(load_disparity(tmp_path / "a.npy", scale=16), [[1.5, -1]])


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    left, right = np.array([[1, INF]], np.float32), np.array([[2, 3]], np.float32)
    np.savez_compressed(path, left)
    np.testing.assert_array_equal(load_disparity(path), [[1, NAN]])
    np.savez(path, left=left, right=right)
    np.testing.assert_array_equal(load_disparity(path, key="right"), right)
    with pytest.raises(ImageError, match="no key was given, expected one of 'left', 'right'"):
        load_disparity(path)
    with pytest.raises(ImageError, match="key is 'middle', expected one of 'left', 'right'"):
        load_disparity(path, key="middle")
    np.savez(path)
    with pytest.raises(ImageError, match="expected one of no array"):
        load_disparity(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [1, 4, 256.0])
def test_png(tmp_path: Path, dtype: type[np.unsignedinteger], scale: float) -> None:
    stored = np.array([[0, 1, 7], [30, 100, np.iinfo(dtype).max]], dtype)
    save_image(tmp_path / "a.png", stored)
    read = load_disparity(tmp_path / "a.png", scale=scale)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.where(stored == 0, NAN, stored / scale).astype(np.float32))


def test_the_content_decides(tmp_path: Path) -> None:
    save_pfm(tmp_path / "a.pfm", np.ones((2, 3)))
    (tmp_path / "a.pfm").rename(tmp_path / "a.png")
    np.testing.assert_array_equal(load_disparity(tmp_path / "a.png"), np.ones((2, 3)))


DEPTHS = hnp.arrays(np.float32, MAPS, elements=st.one_of(st.just(NAN), st.just(INF), st.floats(0.5, 60, width=32)))


@in_one_folder
@given(depth=DEPTHS, scale=st.sampled_from([100.0, 256.0, 1000.0]))
def test_depth_png_round_trip(tmp_path: Path, depth: np.ndarray, scale: float) -> None:
    """Half a unit apart at most."""
    path = tmp_path / "a.png"
    save_depth_png(path, depth, scale=scale)
    assert load_image(path).dtype == np.uint16
    read = load_disparity(path, scale=scale)
    np.testing.assert_array_equal(np.isnan(read), ~np.isfinite(depth))
    known = np.isfinite(depth)
    np.testing.assert_allclose(read[known], depth[known], rtol=1e-6, atol=0.5 / scale)


def test_depth_png_units(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_depth_png(path, np.array([[0.5004, 2.0006, 65.535], [NAN, INF, -INF]]), scale=1000)
    np.testing.assert_array_equal(load_image(path), [[500, 2001, 65535], [0, 0, 0]])
    save_depth_png(path, np.array([[10.0, 20.0, 1e9, NAN]]), max_depth=20)
    np.testing.assert_array_equal(load_image(path), [[10, 20, 0, 0]])


@pytest.mark.parametrize("depth", [65536.0, 0.4, 0.0, -3.0])
def test_depths_that_do_not_fit(tmp_path: Path, depth: float) -> None:
    values = np.array([[50.0, depth, NAN]])
    with pytest.raises(
        ImageError, match=f"1 depths do not fit: .*{depth:g}.* times scale 1, expected 1 to 65535"
    ) as caught:
        save_depth_png(tmp_path / "a.png", values)
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: ")
    assert list(tmp_path.iterdir()) == []


def npy(path: Path, values: np.ndarray) -> Path:
    np.save(path, values, allow_pickle=True)
    return path


def test_refused_files(tmp_path: Path) -> None:
    good = npy(tmp_path / "good.npy", np.ones((20, 20))).read_bytes()
    (tmp_path / "cut.npy").write_bytes(good[:1000])
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and so on")
    (tmp_path / "empty.pfm").touch()
    (tmp_path / "text.pfm").write_text("text")
    save_image(tmp_path / "grey.png", np.ones((2, 2), np.uint8))
    save_image(tmp_path / "colours.png", np.ones((2, 2, 3), np.uint8))
    for name, options, words in (
        ("none.pfm", {}, "there is no such file"),
        ("", {}, "this is a folder"),
        ("empty.pfm", {}, "the file is empty"),
        ("text.pfm", {}, "not an image that can be read"),
        ("cut.npy", {}, "not a NumPy file that can be read"),
        ("cut.npz", {}, "not a NumPy file that can be read"),
        ("grey.png", {}, r"holds uint8, which is disparity times a scale; expected scale=, such as 4 for Middlebury"),
        ("grey.png", {"scale": 0}, "scale is 0, expected a finite number > 0"),
        ("grey.png", {"scale": NAN}, "scale is nan, expected a finite number > 0"),
        ("grey.png", {"key": "a"}, "key is 'a', but this is no NPZ file"),
        ("good.npy", {"key": "a"}, "key is 'a', but this is no NPZ file"),
        ("colours.png", {"scale": 1}, r"holds uint8 of shape \(2, 2, 3\), expected real numbers of \(H, W\)"),
        (npy(tmp_path / "b.npy", np.ones(3)).name, {}, r"holds float64 of shape \(3,\), expected real numbers"),
        (npy(tmp_path / "c.npy", np.ones((2, 2), bool)).name, {}, "holds bool of shape"),
        (npy(tmp_path / "d.npy", np.ones((0, 2))).name, {}, r"holds float64 of shape \(0, 2\)"),
        (npy(tmp_path / "e.npy", np.array([[None]])).name, {}, "not a NumPy file that can be read"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            load_disparity(tmp_path / name, **options)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


@in_one_folder
@given(data=st.data(), kind=st.sampled_from(["npy", "npz", "pfm"]))
def test_broken_files_are_refused_and_nothing_else(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    {"npy": np.save, "npz": np.savez_compressed, "pfm": save_pfm}[kind](path, values)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        assert load_disparity(path, scale=1).ndim == 2
    except ImageError as error:
        assert str(path) in str(error)


def test_refused_writes_leave_nothing(tmp_path: Path) -> None:
    good = np.ones((2, 2), np.float32)
    for save, name, values, words in (
        (save_pfm, "a.png", good, r"expected a name that ends in \.pfm"),
        (save_npy, "a.txt", good, r"expected a name that ends in \.npy"),
        (save_depth_png, "a.pfm", good, r"expected a name that ends in \.png"),
        (save_pfm, "a.pfm", np.ones((2, 2, 3)), r"shape \(2, 2, 3\), expected real numbers of \(H, W\)"),
        (save_pfm, "a.pfm", np.ones((0, 2)), r"shape \(0, 2\), expected"),
        (save_pfm, "a.pfm", np.ones((2, 2), complex), "complex128 and shape"),
        (save_npy, "a.npy", np.array([None]), "an array of object, expected numbers"),
        (save_depth_png, "a.png", np.ones(3), r"shape \(3,\), expected"),
        (save_pfm, "none/a.pfm", good, r"cannot be written \(No such file or directory\)"),
        (save_npy, "none/a.npy", good, r"cannot be written \(No such file or directory\)"),
        (save_depth_png, "none/a.png", good, r"cannot be written \(No such file or directory\)"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            save(tmp_path / name, values)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
    for options, words in (({"scale": 0}, "scale is 0"), ({"max_depth": NAN}, "max_depth is nan")):
        with pytest.raises(ImageError, match=words):
            save_depth_png(tmp_path / "a.png", good, **options)
    assert list(tmp_path.iterdir()) == []


def test_middlebury() -> None:
    teddy = load_disparity(data_file("stereo/middv2/teddy/groundtruth.png"), scale=4)
    assert teddy.shape == (375, 450)
    assert (np.nanmin(teddy), np.nanmax(teddy)) == (12.5, 52.75)
    motorcycle = load_disparity(data_file("stereo/midd2014_motorcycle_q/motorcycle_disp.npz"))
    assert motorcycle.shape == (500, 741)
    assert 0.07 < np.isnan(motorcycle).mean() < 0.08
    assert 0 < np.nanmin(motorcycle) < np.nanmax(motorcycle) < 64
