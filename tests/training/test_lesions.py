"""Synthetic lesions: inside the brain, of the size and contrast asked for, and the same from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

from scipy import ndimage

from fastseg.training.lesions import add_lesion, with_lesions


def brain(channels: int | None = None) -> np.ndarray:
    axes = np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.9
    noise = np.random.default_rng(0).uniform(100, 140, (channels or 1, *inside.shape)).astype(np.float32)
    return noise * inside if channels else noise[0] * inside


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_a_lesion_is_one_blob_in_the_brain(seed: int) -> None:
    scan = brain()
    image, mask = add_lesion(scan, np.random.default_rng(seed), radius=(4, 8))
    assert image.dtype == np.float32 and mask.dtype == bool and mask.shape == scan.shape
    assert not (mask & (scan == 0)).any() and (image[scan == 0] == 0).all()
    largest = np.bincount(ndimage.label(mask)[0].ravel())[1:].max()
    assert largest > 0.95 * mask.sum()
    assert 0.3 * 4**3 * 4 < mask.sum() < 1.5 * 8**3 * 4.2
    deviation, mean = scan[scan != 0].std(), scan[scan != 0].mean()
    assert 1.2 < (image[mask].mean() - mean) / deviation < 3.8
    change = np.abs(image - scan)
    assert change[ndimage.distance_transform_edt(~mask) > 10].max() < 0.1 * change.max()  # it has faded out
    again, _ = add_lesion(scan, np.random.default_rng(seed), radius=(4, 8))
    np.testing.assert_array_equal(again, image)


def test_channels_share_the_place_but_not_the_contrast() -> None:
    scan = brain(channels=2)
    before = scan.copy()
    image, mask = add_lesion(scan, np.random.default_rng(1), radius=(4, 8), contrast=(2, 6))
    np.testing.assert_array_equal(scan, before)
    changes = [np.abs(new - old)[mask].mean() for new, old in zip(image, scan, strict=True)]
    assert min(changes) > 10 and abs(changes[0] - changes[1]) > 1


def test_the_edge_is_soft() -> None:
    scan = np.where(brain() != 0, 100, 0).astype(np.float32)
    scan[20, 20, 20] = 101  # a deviation above zero
    _, narrow = add_lesion(scan, np.random.default_rng(2), radius=(6, 6))
    image, mask = add_lesion(100 * brain(), np.random.default_rng(2), radius=(6, 6), softness=2.0)
    assert narrow.any()
    edge = ndimage.binary_dilation(mask) & ~mask
    outside, inside = (100 * brain())[edge].mean(), image[ndimage.binary_erosion(mask, iterations=2)].mean()
    assert outside < image[edge].mean() < inside


def test_several() -> None:
    image, mask = with_lesions(brain(), np.random.default_rng(0), 3, radius=(3, 4))
    assert ndimage.label(mask)[1] >= 2 and (image != brain()).any()


def test_what_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"volume has shape \(4, 4\)"):
        add_lesion(np.ones((4, 4), np.float32), rng)
    with pytest.raises(ValueError, match=r"radius is \(5, 2\)"):
        add_lesion(brain(), rng, radius=(5, 2))
    with pytest.raises(ValueError, match=r"radius is 30 at least, .* expected a larger brain or a smaller radius"):
        add_lesion(brain(), rng, radius=(30, 30))
    with pytest.raises(ValueError, match="0 voxels that are not zero"):
        add_lesion(np.zeros((9, 9, 9), np.float32), rng, radius=(2, 2))
