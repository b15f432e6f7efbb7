"""The phantom: the same for a seed, nested labels, sequences that show what they should."""

from __future__ import annotations

import numpy as np
import pytest

from fastseg.segmentation.labels import LABELS, REGIONS
from fastseg.segmentation.phantom import SEQUENCES, Phantom, brain_phantom

SHAPE = (48, 56, 48)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return brain_phantom(SHAPE, seed=3)


def test_shapes_and_types(phantom: Phantom) -> None:
    assert phantom.image.shape == (len(SEQUENCES), *SHAPE) and phantom.image.dtype == np.float32
    assert phantom.labels.shape == SHAPE and phantom.labels.dtype == np.uint8
    assert np.isfinite(phantom.image).all() and (phantom.image >= 0).all()
    np.testing.assert_allclose(np.diag(phantom.affine), [4, 4, 4, 1])


def test_a_seed_gives_one_phantom(phantom: Phantom) -> None:
    again, other = brain_phantom(SHAPE, seed=3), brain_phantom(SHAPE, seed=4)
    np.testing.assert_array_equal(again.image, phantom.image)
    np.testing.assert_array_equal(again.labels, phantom.labels)
    assert not np.array_equal(other.labels, phantom.labels)


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 47, 29), SHAPE])
@pytest.mark.parametrize("seed", range(4))
def test_every_label_is_there_and_inside_the_head(shape: tuple[int, int, int], seed: int) -> None:
    made = brain_phantom(shape, seed=seed)
    assert set(np.unique(made.labels)) == {0, *LABELS}
    assert (made.image[:, made.labels > 0] > 0).all()


def test_regions_are_nested(phantom: Phantom) -> None:
    whole, core, enhancing = (np.isin(phantom.labels, labels) for labels in REGIONS.values())
    assert whole.sum() > core.sum() > enhancing.sum() > 0
    assert (whole | ~core).all() and (core | ~enhancing).all()
    # From the inside out 1, 4, 2: the necrotic core touches nothing but the enhancing rim.
    necrotic = phantom.labels == 1
    for axis in range(3):
        for step in (-1, 1):
            neighbours = np.roll(phantom.labels, step, axis)[necrotic]
            assert set(np.unique(neighbours)) <= {1, 4}


def test_contrasts(phantom: Phantom) -> None:
    t1ce, flair = (phantom.image[SEQUENCES.index(name)] for name in ("T1ce", "FLAIR"))
    necrotic, oedema, enhancing = (np.median(t1ce[phantom.labels == label]) for label in LABELS)
    assert enhancing > 1.3 * max(necrotic, oedema)
    assert np.median(flair[phantom.labels == 2]) > 1.3 * np.median(flair[flair > 0])


@pytest.mark.parametrize("shape", [(8, 32, 32), (32, 32)])
def test_shapes_that_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected three sizes of at least 16"):
        brain_phantom(shape)  # type: ignore[arg-type]
