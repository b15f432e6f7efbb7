"""Images: every kind of picture comes as it is, round trips, and what is refused with which words."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL")

from PIL import Image

from fastseg.io import ImageError, load_image, save_image
from tests.support import data_file

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
DEEP_COLOURS = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
MASK = GREY > 99


@pytest.mark.parametrize("ending", [".png", ".tiff", ".PNG"])
@pytest.mark.parametrize("array", [GREY, COLOURS, DEEP, MASK], ids=["grey", "colours", "16 bits", "mask"])
def test_round_trip(tmp_path: Path, array: np.ndarray, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    save_image(path, array)
    read = load_image(path)
    assert read.dtype == (np.uint8 if array.dtype == bool else array.dtype)
    np.testing.assert_array_equal(read, array * np.uint8(255) if array.dtype == bool else array)
    assert list(tmp_path.iterdir()) == [path]


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    for array in (COLOURS[::-1, ::2], np.asfortranarray(DEEP), DEEP.astype(">u2")):
        save_image(tmp_path / "a.png", array)
        np.testing.assert_array_equal(load_image(tmp_path / "a.png"), array)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "1", "CMYK", "I", "F", "I;16B"])
def test_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    grey, colours, image = GREY, COLOURS, Image.fromarray(COLOURS)
    if mode == "RGBA":
        image = Image.fromarray(np.dstack((COLOURS, GREY)))
        expected = colours
    elif mode == "LA":
        image = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(COLOURS[..., 0])))
        expected = grey
    elif mode in ("P", "PA"):
        path = tmp_path / "a.png" if mode == "P" else path
        image = Image.fromarray(COLOURS).convert("P").convert(mode)
        expected = np.array(image.convert("RGB"))
    elif mode == "1":
        image = Image.fromarray(MASK)
        expected = MASK * np.uint8(255)
    elif mode == "CMYK":
        image = image.convert("CMYK")
        expected = np.array(image.convert("RGB"))
    elif mode == "I":
        image = Image.fromarray(DEEP.astype(np.int32))
        expected = DEEP
    elif mode == "F":
        expected = RNG.standard_normal((5, 7), np.float32)
        image = Image.fromarray(expected)
    else:
        expected = DEEP
        image = Image.frombytes(mode, (7, 5), DEEP.astype(">u2").tobytes())
    image.save(path)
    read = load_image(path)
    assert read.dtype == expected.dtype and read.dtype.isnative and read.flags.writeable
    np.testing.assert_array_equal(read, expected)


def test_a_palette_of_greys_gives_one_channel(tmp_path: Path) -> None:
    """As Middlebury's masks have it: the index is not the grey."""
    image = Image.fromarray(MASK.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 128, 128, 128])
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), MASK * np.uint8(128))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """What the tag means, in NumPy: rows and columns that the stored ones are."""
    turns = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
        8: np.rot90,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    for array in (COLOURS, DEEP):
        Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(load_image(tmp_path / "a.png"), turns[orientation](array))


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
    save_image(tmp_path / "a.jpg", smooth)
    assert np.abs(load_image(tmp_path / "a.jpg").astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("ending", [".png", ".tiff", ".ppm"])
def test_colours_of_16_bits_keep_their_bits(tmp_path: Path, ending: str) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / f"a{ending}"
    assert cv2.imwrite(str(path), DEEP_COLOURS[..., ::-1])
    read = load_image(path)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, DEEP_COLOURS)


def test_alpha_of_16_bits_is_left_out(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    assert cv2.imwrite(str(tmp_path / "a.png"), np.dstack((DEEP_COLOURS[..., ::-1], DEEP)))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), DEEP_COLOURS)


def test_grey_of_16_bits_with_alpha(tmp_path: Path) -> None:
    """A PNG by hand, for neither Pillow nor OpenCV writes them."""
    pytest.importorskip("cv2")

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.tobytes() for row in np.stack((DEEP, DEEP_COLOURS[..., 0]), -1).astype(">u2"))
    header = struct.pack(">IIBBBBB", 7, 5, 16, 4, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), DEEP)


def test_colours_of_16_bits_without_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), DEEP_COLOURS)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImageError, match=r"more than 8 bits a colour.*pip install opencv-python-headless"):
        load_image(tmp_path / "a.png")


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


NOISE = RNG.integers(0, 256, (60, 60), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"no picture", "not an image that can be read"),
        (png(NOISE)[:1500], r"not an image that can be read \(.*truncated"),
        (png(NOISE)[:20], r"not an image that can be read \(.*Truncated"),
        (b"PF\n1 1\n-1.0\n" + bytes(12), "not an image that can be read"),
        (b"Pf\n4 4\n-1.0\n" + bytes(12), r"not an image that can be read \(.*truncated"),
    ],
)
def test_refused_files(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        load_image(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_refused_places(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png: there is no such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="this is a folder"):
        load_image(tmp_path)


def test_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65536]], np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match="values from 0 to 65536, expected at most 16 bits"):
        load_image(tmp_path / "a.tiff")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), deep=st.booleans())
def test_broken_files_are_refused_and_nothing_else(tmp_path: Path, data: st.DataObject, deep: bool) -> None:
    content = bytearray(png(DEEP if deep else COLOURS))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.png"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        assert load_image(path).size > 0
    except ImageError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("a.png", np.zeros((2, 2), np.float32), "float32 and shape .2, 2., expected uint8"),
        ("a.png", np.zeros((3, 2, 2), np.uint8), "uint8 and shape .3, 2, 2., expected uint8"),
        ("a.png", np.zeros((2, 2, 3), np.uint16), "uint16 and shape .2, 2, 3., expected uint8"),
        ("a.png", np.zeros((0, 2), np.uint8), "expected at least one pixel"),
        ("a.nope", np.zeros((2, 2), np.uint8), "the ending '.nope' is that of no image format"),
        ("a", np.zeros((2, 2), np.uint8), "the ending '' is that of no image format"),
        ("a.jpg", np.zeros((2, 2), np.uint16), "cannot"),
        ("none/a.png", np.zeros((2, 2), np.uint8), "cannot be written .No such file or directory"),
    ],
)
def test_refused_writes_leave_nothing(tmp_path: Path, name: str, array: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        save_image(tmp_path / name, array)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", ["nonocc", "all", "disc"])
def test_masks_of_middlebury(mask: str) -> None:
    read = load_image(data_file(f"stereo/middv2/teddy/{mask}.png"))
    assert read.shape == (375, 450)
    assert set(np.unique(read)) == ({0, 128, 255} if mask == "disc" else {0, 255})
