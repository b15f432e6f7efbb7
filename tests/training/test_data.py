"""Patients out of folders of three layouts, split, stored, and cut into slices, patches and tiles."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("nibabel")
pytest.importorskip("monai")
pytest.importorskip("PIL")

import nibabel as nib

from fastseg.io import save_image
from fastseg.models import create
from fastseg.training import cases
from fastseg.training.cases import Case, Source, in_memory, store, stored
from fastseg.training.datasets import Limited, Target
from fastseg.training.errors import TrainingError
from fastseg.training.readers import find_sources
from fastseg.training.slices import Slices, fitted, size_for
from fastseg.training.split import split
from fastseg.training.transforms import Augmentation
from fastseg.training.volumes import Patches, Tiles
from tests.training.squares import write_pictures

LESION = Target("sigmoid", ("lesion",))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume_case(name: str = "a", shape: tuple[int, int, int] = (12, 10, 9), seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    image = rng.uniform(1, 2, (2, *shape)).astype(np.float32)
    image[..., 0] = 0
    labels = (rng.random(shape) < 0.1).astype(np.uint8)
    return in_memory(name, image, labels)


def brats(folder: Path, name: str, labels: np.ndarray | None) -> np.ndarray:
    (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    data = rng.integers(1, 900, (4, 6, 7, 5)).astype(np.int16)
    data[:, :2] = 0
    for ending, sequence in zip(("t1", "t1ce", "t2", "flair"), data, strict=True):
        nib.save(nib.Nifti1Image(sequence, LPS), folder / name / f"{name}_{ending}.nii.gz")
    if labels is not None:
        nib.save(nib.Nifti1Image(labels, LPS), folder / name / f"{name}_seg.nii.gz")
    return data


def test_brats_is_normalised_and_in_ras_order(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).choice([0, 1, 2, 4], (6, 7, 5)).astype(np.uint8)
    data = brats(tmp_path, "BraTS_1", labels).astype(np.float32)
    layout, (source,) = find_sources(tmp_path)
    case = source.read()
    assert (layout, case.name, case.shape) == ("brats", "BraTS_1", (5, 4, 6, 7))
    image, found = case.open()
    np.testing.assert_array_equal(found, np.moveaxis(labels[::-1, ::-1], -1, 0))
    inside = data[2][data[2] != 0]
    expected = np.where(data[2] != 0, (data[2] - inside.mean()) / inside.std(ddof=1), 0)[::-1, ::-1]
    np.testing.assert_allclose(image[:, 2], np.moveaxis(expected, -1, 0), atol=1e-5)


def test_brats_without_labels(tmp_path: Path) -> None:
    brats(tmp_path, "BraTS_1", None)
    with pytest.raises(TrainingError, match=r"BraTS_1: there is no file of labels \(\*_seg\)"):
        find_sources(tmp_path)[1][0].read()


def lgg(folder: Path, name: str, masks: bool = True) -> np.ndarray:
    (folder / name).mkdir(parents=True)
    images = np.random.default_rng(3).integers(1, 255, (3, 8, 8, 3)).astype(np.uint8)
    for number, image in enumerate(images, 1):
        save_image(folder / name / f"{name}_{number}.tif", image)
        if masks:
            save_image(folder / name / f"{name}_{number}_mask.tif", image[..., 0] > 128)
    return images


def test_lgg_is_normalised_over_the_patient(tmp_path: Path) -> None:
    images = lgg(tmp_path, "TCGA_CS_1")
    layout, (source,) = find_sources(tmp_path)
    image, labels = source.read().open()
    assert layout == "lgg" and image.shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(labels, images[..., 0] > 128)
    np.testing.assert_allclose(image.mean((0, 2, 3)), 0, atol=1e-5)  # of all slices together
    assert abs(image[0].mean()) > 1e-3
    assert find_sources(tmp_path, image_size=(4, 16))[1][0].read().shape == (3, 3, 4, 16)


def test_lgg_without_masks(tmp_path: Path) -> None:
    lgg(tmp_path, "TCGA_CS_1", masks=False)
    with pytest.raises(TrainingError, match="TCGA_CS_1: there are no masks"):
        find_sources(tmp_path)[1][0].read()


def test_pictures_of_a_patient_stay_together(tmp_path: Path) -> None:
    layout, sources = find_sources(write_pictures(tmp_path / "a", patients=3, slices=4))
    assert layout == "images" and [source.name for source in sources] == ["case0", "case1", "case2"]
    assert sources[0].read().shape == (4, 1, 16, 16)
    # A number behind one common word numbers patients, as far as anybody can tell.
    alone = find_sources(write_pictures(tmp_path / "b", patients=1, slices=4))[1]
    assert [source.name for source in alone] == ["case0_0", "case0_1", "case0_2", "case0_3"]


def test_patients_of_sub_folders_are_never_split(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        for patient in "pq":
            (tmp_path / part / patient).mkdir(parents=True)
            for number in (1, 2):
                save_image(tmp_path / part / patient / f"{number}.png", np.full((6, 8), 9, np.uint8))
    assert [source.name for source in find_sources(tmp_path)[1]] == ["p", "q"]


def test_scans_of_one_patient_are_never_split(tmp_path: Path) -> None:
    """From 2023 on BraTS has several scans of some patients, numbered last."""
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-MEN-00005-000", "BraTS20_Training_001"):
        brats(tmp_path, name, None)
    groups = [source.group for source in find_sources(tmp_path)[1]]
    assert groups == ["BraTS-GLI-00005", "BraTS-GLI-00005", "BraTS-MEN-00005", ""]


def test_pictures_that_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no such folder"):
        find_sources(tmp_path / "none")
    with pytest.raises(TrainingError, match=r"no patient in it, expected images/ and masks/.*TCGA-LGG.*BraTS"):
        find_sources(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(TrainingError, match="masks: there is no such folder"):
        find_sources(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(TrainingError, match="there is no picture in it"):
        find_sources(tmp_path)
    grey = np.full((6, 8), 9, np.uint8)
    save_image(tmp_path / "images" / "a.png", grey)
    with pytest.raises(TrainingError, match=r"images/a\.png: there is no masks/a\.png or \.tif"):
        find_sources(tmp_path)
    save_image(tmp_path / "masks" / "a.tif", grey.T)
    with pytest.raises(TrainingError, match=r"masks/a\.tif: 8 x 6, expected the size of its image, 6 x 8"):
        find_sources(tmp_path)[1][0].read()
    save_image(tmp_path / "masks" / "a.tif", grey)
    assert find_sources(tmp_path)[1][0].read().open()[1].tolist() == np.ones((1, 6, 8)).tolist()
    with pytest.raises(TrainingError, match=r"masks/a\.tif: values up to 9, expected classes from 0 to 3"):
        find_sources(tmp_path, classes=3)[1][0].read()
    for part in ("images", "masks"):
        (tmp_path / part / "p").mkdir()
        save_image(tmp_path / part / "p" / "1.png", grey)
        save_image(tmp_path / part / "p" / "2.png", grey.T)
        for patient in "bc":
            save_image(tmp_path / part / f"{patient}.png", grey)
    source = next(source for source in find_sources(tmp_path)[1] if source.name == "p")
    with pytest.raises(TrainingError, match=r"p/2\.png: 8 x 6, expected the size of 1\.png, 6 x 8: --image-size"):
        source.read()
    assert find_sources(tmp_path, image_size=(4, 4))[1][-1].read().shape == (2, 1, 4, 4)


def test_a_split_by_patient() -> None:
    names = [f"p{number}" for number in range(80)]
    parts = split(names * 3, seed=1)
    assert [len(part) for part in (parts.train, parts.validation, parts.test)] == [68, 9, 3]
    assert sorted((*parts.train, *parts.validation, *parts.test)) == sorted(names)
    assert split(names[::-1], seed=1) == parts != split(names, seed=2)
    few = split(["a", "b"])
    assert (len(few.train), len(few.validation), len(few.test)) == (1, 1, 0)
    held_out = [set(split(names, folds=5, fold=fold).validation) for fold in range(5)]
    assert set.union(*held_out) == set(names) and sum(map(len, held_out)) == 80
    with pytest.raises(TrainingError, match="1 patient, expected at least 2"):
        split(["a"])
    with pytest.raises(TrainingError, match="2 patients, expected at least 3"):
        split(["a", "b"], folds=3)
    with pytest.raises(ValueError, match="fold is 3 of 3 folds"):
        split(names, folds=3, fold=3)
    with pytest.raises(ValueError, match="expected three numbers"):
        split(names, shares=(0.5, 0.5, 0.5))


def test_stored_cases_are_read_from_the_disk_and_made_once(tmp_path: Path) -> None:
    made: list[str] = []
    file = tmp_path / "source"
    file.write_text("1")

    def read() -> Case:
        made.append("a")
        return volume_case()

    source, folder = Source("a", (file,), read), tmp_path / "cache"
    store(folder, [source])
    store(folder, [source])
    assert made == ["a"]
    (case,) = stored(folder, [source])
    image, labels = case.open()
    assert isinstance(image, np.memmap) and case.shape == image.shape == (8, 2, 12, 10)
    np.testing.assert_allclose(image, volume_case().open()[0], rtol=1e-3)  # 16 bits
    np.testing.assert_array_equal(labels, volume_case().open()[1])
    file.write_text("changed")
    store(folder, [source])
    assert made == ["a", "a"]
    store(folder, [Source(name, (file,), read, key="x") for name in "bcd"], part=(1, 3))
    assert len(made) == 3  # every third, from the second on


def test_cases_that_another_version_prepared_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "source"
    file.write_text("1")
    source = Source("a", (file,), volume_case)
    before = source.stored_as()
    assert source.stored_as() == before
    monkeypatch.setattr(cases, "_VERSION", cases._VERSION + 1)
    assert source.stored_as() != before


def test_a_disk_too_small_for_the_cases_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "source"
    file.write_text("1")
    sources = [Source(name, (file,), volume_case) for name in "abcd"]
    store(tmp_path, sources[:2])
    size = (tmp_path / sources[0].stored_as()).stat().st_size  # with the file's header

    def free(count: float) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=int(count * size))
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)

    free(1.5)
    with pytest.raises(TrainingError, match=r"2 cases to prepare take about .* are free"):
        store(tmp_path, sources)
    assert not (tmp_path / sources[2].stored_as()).exists()
    free(2)
    store(tmp_path, sources)
    assert len(stored(tmp_path, sources)) == 4


def test_slices_in_their_places() -> None:
    cases = [volume_case("a"), volume_case("b", (8, 11, 4), seed=1)]
    assert size_for(cases, 4) == (12, 12) and size_for(cases, 4, 3) == (12, 12, 8)
    data = Slices(cases, LESION, (12, 12))
    assert len(data) == 8 + 3
    image, target = data[9]
    images, labels = cases[1].open()
    np.testing.assert_array_equal(image[:, 2:10, :11], images[1])
    np.testing.assert_array_equal(target[0, 2:10, :11], labels[1] > 0)
    assert image.abs().sum() == pytest.approx(np.abs(images[1]).sum()) and image.dtype == torch.float32
    with pytest.raises(IndexError):
        data[11]
    assert [int(i) for i in Limited(data, 3)._indices] == [0, 5, 10]
    none = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(TrainingError, match="c: 1 channels, expected those of a, 2"):
        Slices([cases[0], in_memory("c", np.ones((1, 4, 4, 4), np.float32), none)], LESION, (4, 4))
    with pytest.raises(TrainingError, match="no case"):
        Slices([], LESION, (4, 4))
    assert in_memory("d", np.zeros((1, 4, 4, 4), np.float32), none).shape == (4, 1, 4, 4)  # a blank picture


def test_fitted_cuts_and_pads_on_both_sides() -> None:
    np.testing.assert_array_equal(fitted(np.arange(1, 6), (3,)), [2, 3, 4])
    np.testing.assert_array_equal(fitted(np.ones((2, 1)), (2, 3)), [[0, 1, 0], [0, 1, 0]])


def test_tiles_cover_every_voxel_once() -> None:
    case = volume_case()
    data = Tiles([case], LESION, (8, 4, 8))
    assert len(data) == 2 * 3 * 1
    images, labels = case.open()
    assert sum(float(image.double().sum()) for image, _ in data) == pytest.approx(float(images.sum(dtype=np.float64)))
    assert sum(int(target.sum()) for _, target in data) == int(labels.sum(dtype=int))
    assert data[0][0].shape == (2, 8, 4, 8)


def test_patches_show_the_foreground_every_other_time() -> None:
    image = np.random.default_rng(0).uniform(1, 2, (1, 30, 30, 30)).astype(np.float32)
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[20, 5, 9] = 1
    data = Patches([in_memory("a", image, labels)], LESION, (6, 7, 8), per_case=20)
    found = [int(target.sum()) for _, target in data]
    assert found[1::2] == [1] * 10 and sum(found[::2]) < 3
    data.set_epoch(1)
    assert all(int(data[index][1].sum()) for index in range(0, 20, 2))
    data.set_epoch(0)
    patch, target = data[1]
    x, y, z = (int(axis[0]) for axis in np.nonzero(target[0].numpy()))
    np.testing.assert_array_equal(patch[0], image[0, 20 - x : 26 - x, 5 - y : 12 - y, 9 - z : 17 - z])
    small = Patches([volume_case()], LESION, (16, 16, 16))
    assert small[0][0].shape == (2, 16, 16, 16)


@pytest.mark.parametrize("size", [(12, 12), (12, 8), (8, 8, 8)])
def test_augmentation_follows_from_seed_epoch_and_index_alone(size: tuple[int, ...]) -> None:
    def made(seed: int = 0) -> Slices | Patches:
        cases = [volume_case("a"), volume_case("b", seed=1)]
        if len(size) == 2:
            return Slices(cases, LESION, size, Augmentation(size), seed)
        return Patches(cases, LESION, size, Augmentation(size), seed)

    data = made()
    first = [data[index] for index in range(4)]
    again = list(DataLoader(made(), None, num_workers=2, persistent_workers=True))[:4]
    for (image, target), (image_2, target_2) in zip(first, again, strict=True):
        assert torch.equal(image, image_2) and torch.equal(target, target_2)
        assert image.shape[1:] == target.shape[1:] == size and target.dtype == torch.bool
    data.set_epoch(1)
    assert not torch.equal(data[0][0], first[0][0])
    assert not torch.equal(made(seed=1)[0][0], first[0][0])


def test_workers_that_live_on_see_the_epoch() -> None:
    data = Slices([volume_case()], LESION, (12, 12), Augmentation((12, 12)))
    loader = DataLoader(data, None, num_workers=1, persistent_workers=True)
    epochs = []
    for number in (1, 2, 1):
        data.set_epoch(number)
        epochs.append(torch.stack([image for image, _ in loader]))
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


def test_augmentation_moves_image_and_labels_together() -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[5:15, 8:20] = 1
    image = labels[None].astype(np.float32)
    augment = Augmentation((32, 32), intensity=0.0, affine_share=1.0)
    places = set()
    for seed in range(20):
        moved, found = augment(image, labels, np.random.default_rng(seed))
        assert ((moved[0] > 0.5) != found).mean() < 0.02 and 0.7 < found.sum() / labels.sum() < 1.3
        places.add((int(np.argwhere(found)[:, 0].mean()), int(np.argwhere(found)[:, 1].mean())))
    assert len(places) > 10
    np.testing.assert_array_equal(labels[5:15, 8:20], 1)  # the input stays as it is


def test_targets() -> None:
    labels = np.array([[0, 1], [2, 4]], np.uint8)
    regions = Target.of(create("resunet", out_channels=3), brats=True)
    assert regions.names == ("WT", "TC", "ET")
    assert regions(labels).tolist() == [[[0, 1], [1, 1]], [[0, 1], [0, 1]], [[0, 0], [0, 1]]]
    behind = Target.of(create("resunet", out_channels=4), brats=True)
    assert behind.names == regions.names and behind(labels)[3].tolist() == [[1, 0], [0, 0]]
    classes = Target.of(create("unet", out_channels=4, widths=(4, 8)), brats=True)
    assert classes(labels).tolist() == [[0, 1], [2, 3]] and classes.names[1] == "oedema"
    assert Target.of(create("resunet"), brats=True)(labels).tolist() == [[[0, 1], [1, 1]]]
    pictures = Target.of(create("unet", out_channels=4, widths=(4, 8)), brats=False)
    assert pictures(np.array([0, 3], np.uint8)).tolist() == [0, 3] and len(pictures.names) == 3
    with pytest.raises(TrainingError, match=r"out_channels is 2, expected 1 \(whole tumour\) or 3 \(WT, TC, ET\)"):
        Target.of(create("resunet", out_channels=2), brats=True)
