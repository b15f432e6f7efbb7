"""The overlay: sections in RAS order whatever the file's, outlines in their colours, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

from fastseg.io import FileError, from_ras, load_image
from fastseg.segmentation.overlay import _indices, save_overlay

SHAPE = (30, 36, 20)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
RED = np.array([255, 92, 92])  # of the first region
PIL = np.array([[0, 0, -1.0, 9], [-1.0, 0, 0, 4], [0, -2.0, 0, 3], [0, 0, 0, 1]])  # axes to the back, down, left


def case() -> tuple[np.ndarray, np.ndarray]:
    """A grey block with a label at the patient's left, in front and above."""
    image = np.zeros(SHAPE, np.float32)
    image[3:-3, 3:-3, 2:-2] = 100
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:9, 26:30, 14:17] = 1
    return image, labels


def drawn(path: Path, **options: object) -> np.ndarray:
    save_overlay(path, *case(), AFFINE, **options)  # type: ignore[arg-type]
    return load_image(path)


def panels(picture: np.ndarray) -> list[np.ndarray]:
    """The three views of a picture of one row, without title and legend; they are the only black rectangles."""
    height, width = picture.shape[:2]
    middle = picture[int(0.14 * height) : int(0.86 * height)].astype(int)
    result = []
    for number in range(3):
        third = middle[:, number * width // 3 : (number + 1) * width // 3]
        black = np.nonzero((third == 0).all(-1))
        rows, columns = (slice(int(axis.min()), int(axis.max()) + 1) for axis in black)
        result.append(third[rows, columns])
    return result


def centre(panel: np.ndarray) -> tuple[float, float]:
    """Where the outline is, as shares of the panel from its left and from its top."""
    rows, columns = np.nonzero(np.abs(panel - RED).sum(-1) < 60)
    assert rows.size
    return columns.mean() / panel.shape[1], rows.mean() / panel.shape[0]


def test_the_side_of_each_view(tmp_path: Path) -> None:
    axial, coronal, sagittal = panels(drawn(tmp_path / "a.png"))
    # The middle of the label as a share of each axis: from the left 0.22, from the back 0.76, from below 0.75.
    assert centre(axial) == pytest.approx((1 - 0.22, 1 - 0.76), abs=0.03)
    assert centre(coronal) == pytest.approx((1 - 0.22, 1 - 0.75), abs=0.03)
    assert centre(sagittal) == pytest.approx((1 - 0.76, 1 - 0.75), abs=0.03)
    axial, coronal, sagittal = panels(drawn(tmp_path / "b.png", radiological=False))
    assert centre(axial) == pytest.approx((0.22, 1 - 0.76), abs=0.03)
    assert centre(coronal) == pytest.approx((0.22, 1 - 0.75), abs=0.03)
    assert centre(sagittal) == pytest.approx((1 - 0.76, 1 - 0.75), abs=0.03)


def test_panels_have_the_shape_of_space(tmp_path: Path) -> None:
    for panel, (width, height) in zip(panels(drawn(tmp_path / "a.png")), ((30, 36), (30, 40), (36, 40)), strict=True):
        assert panel.shape[1] / panel.shape[0] == pytest.approx(width / height, rel=0.02)


def test_the_orientation_of_the_arrays_does_not_matter(tmp_path: Path) -> None:
    expected = drawn(tmp_path / "a.png")
    image, labels = (from_ras(array, PIL) for array in case())
    assert image.shape == (36, 20, 30)
    save_overlay(tmp_path / "b.png", image, labels, PIL)
    np.testing.assert_array_equal(load_image(tmp_path / "b.png"), expected)


def test_overlapping_regions_can_all_be_seen(tmp_path: Path) -> None:
    image, labels = case()
    picture = {}
    for regions in ({"whole": (1, 2), "core": (1,)}, {"whole": (1, 2)}):
        save_overlay(tmp_path / "a.png", image, labels, AFFINE, regions=regions)
        picture[len(regions)] = panels(load_image(tmp_path / "a.png"))
    for both, alone in zip(picture[2], picture[1], strict=True):
        centre(both)  # the first region is there under the dashes of the second
        yellow = (np.abs(both - [255, 209, 102]).sum(-1) < 60).sum()
        assert yellow > 20 and not (np.abs(alone - [255, 209, 102]).sum(-1) < 60).any()


def test_several_slices_and_many_labels(tmp_path: Path) -> None:
    image, _ = case()
    labels = np.zeros(SHAPE, np.int32)
    for label in range(1, 14):
        labels[2 * label, 10:20, 5:15] = label
    save_overlay(tmp_path / "a.png", image, labels, AFFINE, slices=3, title="thirteen")
    one = drawn(tmp_path / "b.png").shape
    three = load_image(tmp_path / "a.png").shape
    assert three[1] == one[1] and three[0] == one[0] + 2 * 480


@pytest.mark.parametrize("slices", [1, 2, 3, 5])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_section_is_the_largest(axis: int, slices: int) -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[4:34, 10:30, 8:30] = True
    mask[24, 5:35, 3:37] = mask[4:38, 12, 3:37] = mask[4:38, 5:35, 27] = True
    indices = _indices(mask, axis, slices)
    assert len(indices) == slices and (24, 12, 27)[axis] in indices
    assert all(mask.take(index, axis).any() for index in indices)
    assert len(set(indices)) == slices


def test_without_labels_sections_go_through_the_middle(tmp_path: Path) -> None:
    image, labels = case()
    image[:, :, SHAPE[2] // 2] = 0  # a black plane, which the axial section alone shows
    save_overlay(tmp_path / "a.png", image, 0 * labels, AFFINE)
    axial, coronal, _ = panels(load_image(tmp_path / "a.png"))
    assert (axial[20:-20, 40:-40].mean(), coronal[20:-20, 40:-40].mean()) == pytest.approx((0, 230), abs=60)
    save_overlay(tmp_path / "b.png", 0 * image, 0 * labels, AFFINE)
    assert load_image(tmp_path / "b.png").ndim == 3


def test_what_is_refused(tmp_path: Path) -> None:
    image, labels = case()
    broken = image.copy()
    broken[0, 0, 0] = np.inf
    for arguments, options, words in (
        (
            (image[None], labels),
            {},
            r"image is float32 of shape \(1, 30, 36, 20\), expected real numbers of \(X, Y, Z\)",
        ),
        ((broken, labels), {}, "image holds NaN or infinity"),
        ((image, labels[:-1]), {}, r"labels is uint8 of shape \(29, 36, 20\), expected integers or bool of \(30, 36"),
        ((image, image), {}, "labels is float32"),
        ((image, labels), {"slices": 0}, "slices is 0, expected a whole number >= 1"),
    ):
        with pytest.raises(ValueError, match=words):
            save_overlay(tmp_path / "a.png", *arguments, AFFINE, **options)
    with pytest.raises(FileError, match=r"a\.jpg: expected a name that ends in \.png"):
        save_overlay(tmp_path / "a.jpg", image, labels, AFFINE)
    with pytest.raises(FileError, match="cannot be written"):
        save_overlay(tmp_path / "none" / "a.png", image, labels, AFFINE)
    assert list(tmp_path.iterdir()) == []
