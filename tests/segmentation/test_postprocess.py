"""Post-processing: cavities, small components, cores outside the tumour, nesting; sizes in voxels and millilitres."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from fastseg.segmentation.postprocess import (
    Postprocessing,
    fill_holes,
    minimum_voxels,
    nested,
    remove_false_cores,
    remove_small_components,
)

SHAPE = (16, 14, 12)


def boxes(*corners: tuple[int, int]) -> np.ndarray:
    """Cubes (first voxel, edge) along the diagonal."""
    mask = np.zeros(SHAPE, bool)
    for first, edge in corners:
        mask[(slice(first, first + edge),) * 3] = True
    return mask


def test_only_cavities_are_filled() -> None:
    shell = boxes((2, 6)) & ~boxes((4, 2))
    np.testing.assert_array_equal(fill_holes(shell), boxes((2, 6)))
    open_shell = shell.copy()
    open_shell[4, 4, :4] = False  # a way out
    np.testing.assert_array_equal(fill_holes(open_shell), open_shell)
    at_border = boxes((0, 5)) & ~boxes((1, 2))
    np.testing.assert_array_equal(fill_holes(at_border), boxes((0, 5)))
    assert not fill_holes(boxes()).any()


@pytest.mark.parametrize(("least", "left"), [(0, [1, 2, 3]), (8, [2, 3]), (9, [3]), (27, [3]), (28, [])])
def test_small_components(least: int, left: list[int]) -> None:
    mask = boxes((0, 1), (3, 2), (7, 3))
    places = {1: (0, 1), 2: (3, 2), 3: (7, 3)}
    found = remove_small_components(mask, min_voxels=least)
    np.testing.assert_array_equal(found, boxes(*(places[edge] for edge in left)))
    # The same in millilitres, with voxels of 2 cubic millimetres.
    np.testing.assert_array_equal(remove_small_components(mask, min_ml=least * 2 / 1000, voxel_mm3=2), found)


def test_connectivity() -> None:
    mask = boxes((0, 2), (2, 2))  # they touch at a corner
    assert not remove_small_components(mask, min_voxels=9).any()
    assert remove_small_components(mask, min_voxels=9, connectivity=3).sum() == 16
    with pytest.raises(ValueError, match="connectivity is 4, expected a number from 1 to 3"):
        remove_small_components(mask, min_voxels=9, connectivity=4)


def test_the_arguments_stay_as_they_are() -> None:
    mask = boxes((0, 1), (3, 2))
    before = mask.copy()
    found = remove_small_components(mask)
    found[:] = False
    np.testing.assert_array_equal(mask, before)


def test_false_cores() -> None:
    whole = boxes((2, 6))
    inside, outside, across = boxes((3, 2)), boxes((9, 3)), boxes((6, 4))
    found = remove_false_cores(inside | outside | across, whole)
    np.testing.assert_array_equal(found, inside | boxes((6, 2)))
    np.testing.assert_array_equal(remove_false_cores(inside | across, whole, min_voxels=9), boxes())
    with pytest.raises(ValueError, match="whole has shape"):
        remove_false_cores(inside, whole[1:])


def test_nested() -> None:
    regions = np.random.default_rng(0).random((3, *SHAPE)) > 0.5
    found = nested(regions)
    np.testing.assert_array_equal(found[1], regions[0] & regions[1])
    np.testing.assert_array_equal(found[2], regions.all(0))


@pytest.mark.parametrize("seed", range(3))
def test_all_of_it_is_nested(seed: int) -> None:
    regions = np.random.default_rng(seed).random((3, *SHAPE)) > 0.4
    found = Postprocessing()(regions)
    assert (found[0] | ~found[1]).all() and (found[1] | ~found[2]).all() and found[2].any()


def test_all_of_it() -> None:
    whole = (boxes((1, 8)) & ~boxes((7, 1))) | boxes((12, 1))  # a cavity, and one voxel far away
    core = (boxes((2, 5)) & ~boxes((4, 1))) | boxes((10, 2))  # a cavity, and a part outside the tumour
    rim = boxes((2, 5)) & ~boxes((3, 3))  # around necrosis, which is not to be filled
    found = Postprocessing(min_whole_ml=0.002)(np.stack([whole, core, rim]))
    np.testing.assert_array_equal(found, np.stack([boxes((1, 8)), boxes((2, 5)), rim]))
    left = Postprocessing(min_whole_ml=0, min_core_ml=0, fill=False)(np.stack([whole, core, rim]))
    np.testing.assert_array_equal(left, np.stack([whole, core & whole, rim & core & whole]))
    assert not Postprocessing(min_whole_ml=1)(np.stack([whole, core, rim])).any()
    np.testing.assert_array_equal(Postprocessing(min_whole_ml=0.002)(whole[None])[0], boxes((1, 8)))


def test_sizes() -> None:
    assert minimum_voxels(5, 0.001, 2.0) == 5 and minimum_voxels(0, 0.1) == 100 and minimum_voxels(0, 0.1, 3.0) == 34
    for options, words in (
        ({"min_voxels": -1}, "min_voxels is -1"),
        ({"min_ml": float("nan")}, "min_ml is nan"),
        ({"voxel_mm3": 0}, "voxel_mm3 is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            minimum_voxels(**options)
    with pytest.raises(ValueError, match="min_ml is -1"):
        Postprocessing(min_core_ml=-1)
