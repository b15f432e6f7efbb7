"""Patients of TCGA-LGG: slices in the order of their numbers, all masks or none, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from fastseg.io import ImageError, find_lgg, has_lgg_masks, load_lgg, load_lgg_masks, save_image

NAME = "TCGA_CS_4941_19960909"
SHAPE = (9, 8)


def image(number: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)


def mask(number: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(100 + number).random(shape) < 0.3


def patient(folder: Path, numbers: range = range(1, 13), *, masks: bool = True, name: str = NAME) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        save_image(folder / f"{name}_{number}.tif", image(number))
        if masks:
            save_image(folder / f"{name}_{number}_mask.tif", mask(number))
    return folder


def test_slices_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    read = load_lgg(patient(tmp_path))
    assert read.name == NAME
    assert [path.name for path in read.files] == [f"{NAME}_{number}.tif" for number in range(1, 13)]
    np.testing.assert_array_equal(read.images, [image(number) for number in range(1, 13)])
    assert read.masks is not None and read.masks.dtype == bool
    np.testing.assert_array_equal(read.masks, [mask(number) for number in range(1, 13)])


def test_masks_may_be_missing_altogether(tmp_path: Path) -> None:
    read = load_lgg(patient(tmp_path, masks=False))
    assert read.masks is None and read.images.shape == (12, *SHAPE, 3)


def test_masks_of_zero_and_one_and_empty_ones(tmp_path: Path) -> None:
    patient(tmp_path, range(1, 3))
    save_image(tmp_path / f"{NAME}_1_mask.tif", mask(1).astype(np.uint8))
    save_image(tmp_path / f"{NAME}_2_mask.tif", np.zeros(SHAPE, np.uint8))
    read = load_lgg(tmp_path)
    assert read.masks is not None
    np.testing.assert_array_equal(read.masks, [mask(1), np.zeros(SHAPE)])


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    patient(tmp_path, range(1, 3))
    (tmp_path / f"._{NAME}_1.tif").write_bytes(b"\0\5\26\7")
    (tmp_path / "data.csv").write_text("hello")
    assert len(load_lgg(tmp_path).images) == 2


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_lgg(folder)
    for word in words:
        assert word in str(caught.value)


def test_masks_that_are_missing_are_named(tmp_path: Path) -> None:
    patient(tmp_path)
    (tmp_path / f"{NAME}_3_mask.tif").unlink()
    (tmp_path / f"{NAME}_11_mask.tif").unlink()
    refused(tmp_path, f"there is no mask for {NAME}_11.tif, {NAME}_3.tif, expected all masks or none")


def test_many_missing_masks_are_counted(tmp_path: Path) -> None:
    patient(tmp_path, masks=False)
    save_image(tmp_path / f"{NAME}_1_mask.tif", mask(1))
    refused(tmp_path, " and 6 more, expected all masks or none")


def test_masks_without_a_slice_are_named(tmp_path: Path) -> None:
    patient(tmp_path)
    (tmp_path / f"{NAME}_7.tif").unlink()
    refused(tmp_path, f"there is no slice for {NAME}_7_mask.tif")


@pytest.mark.parametrize("ending", ["", "_mask"])
def test_sizes_that_differ(tmp_path: Path, ending: str) -> None:
    patient(tmp_path, range(1, 4))
    made = mask(2, (7, 8)) if ending else image(2, (7, 8))
    save_image(tmp_path / f"{NAME}_2{ending}.tif", made)
    refused(tmp_path, f"{NAME}_2{ending}.tif: 7 x 8, expected the size of {NAME}_1.tif, 9 x 8")


def test_two_files_for_one_slice(tmp_path: Path) -> None:
    patient(tmp_path, range(1, 3))
    save_image(tmp_path / f"{NAME}_01.tif", image(1))
    refused(tmp_path, f"{NAME}_01.tif and {NAME}_1.tif have one number")


def test_two_patients(tmp_path: Path) -> None:
    patient(tmp_path, range(1, 3))
    patient(tmp_path, range(3, 5), name="TCGA_DU_5849")
    refused(tmp_path, f"slices of {NAME}, TCGA_DU_5849, expected one patient a folder")


def test_pixels_that_are_no_slice_or_mask(tmp_path: Path) -> None:
    patient(tmp_path, range(1, 3))
    save_image(tmp_path / f"{NAME}_2_mask.tif", np.arange(72, dtype=np.uint8).reshape(SHAPE))
    refused(tmp_path, f"{NAME}_2_mask.tif: values 1, 2, 3, 4, 5 and 66 more, expected a mask of 0 and 255")
    save_image(tmp_path / f"{NAME}_2_mask.tif", image(2))
    refused(tmp_path, f"{NAME}_2_mask.tif: shape (9, 8, 3), expected a mask of (H, W)")
    save_image(tmp_path / f"{NAME}_2.tif", mask(2))
    refused(tmp_path, f"{NAME}_2.tif: uint8 of shape (9, 8), expected uint8 of (H, W, 3)")
    (tmp_path / f"{NAME}_2.tif").write_text("hello")
    refused(tmp_path, f"{NAME}_2.tif: not an image that can be read")


def test_folders_without_slices(tmp_path: Path) -> None:
    refused(tmp_path, "there is no slice, expected files such as NAME_1.tif")
    refused(tmp_path / "none", "none: there is no such folder")
    with pytest.raises(ImageError, match="neither this folder nor those in it hold slices"):
        find_lgg(tmp_path)


def test_patients_are_found_at_any_depth(tmp_path: Path) -> None:
    made = [patient(tmp_path / name, range(1, 2)) for name in ("kaggle_3m/b", "kaggle_3m/a", "c")]
    (tmp_path / "masks-alone").mkdir()
    save_image(tmp_path / "masks-alone" / f"{NAME}_1_mask.tif", mask(1))
    assert find_lgg(tmp_path) == sorted(made)
    assert find_lgg(made[0]) == [made[0]]


def test_masks_alone(tmp_path: Path) -> None:
    patient(tmp_path / "all", range(3, 13))
    patient(tmp_path / "none", masks=False)
    alone = tmp_path / "alone"
    alone.mkdir()
    for number in range(3, 13):
        save_image(alone / f"{NAME}_{number}_mask.tif", mask(number))
    for folder in (tmp_path / "all", alone):
        read = load_lgg_masks(folder)
        assert read.numbers == tuple(range(3, 13))
        np.testing.assert_array_equal(read.masks, [mask(number) for number in range(3, 13)])
    assert [has_lgg_masks(tmp_path / name) for name in ("all", "alone", "none", "nowhere")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(ImageError, match=r"none: there is no mask, expected files such as NAME_1_mask\.tif"):
        load_lgg_masks(tmp_path / "none")


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    save_image(tmp_path / f"{NAME}_1_mask.tif", mask(1))
    save_image(tmp_path / f"{NAME}_2_mask.tif", mask(2, (9, 7)))
    with pytest.raises(ImageError, match=rf"{NAME}_2_mask\.tif: 9 x 7, expected the size of {NAME}_1_mask\.tif, 9 x 8"):
        load_lgg_masks(tmp_path)
    save_image(tmp_path / f"{NAME}_2_mask.tif", mask(2))
    save_image(tmp_path / "OTHER_3_mask.tif", mask(3))
    with pytest.raises(ImageError, match=f"slices of OTHER, {NAME}, expected one patient a folder"):
        load_lgg_masks(tmp_path)
