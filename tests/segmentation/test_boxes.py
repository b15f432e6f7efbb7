"""Boxes and cut-outs: where a component is, cut-outs that stay inside, padding, pasting as the inverse of cutting."""

from __future__ import annotations

import pytest
import torch

from fastseg.segmentation.boxes import Crop, bounding_box, centre_of, crop_around, largest_component, locate


def mask_with(shape: tuple[int, ...], *boxes: tuple[slice, ...]) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for box in boxes:
        mask[box] = True
    return mask


BIG = (slice(2, 6), slice(3, 5), slice(0, 4))
SMALL = (slice(8, 10), slice(7, 9), slice(5, 6))


def test_bounding_box_holds_every_voxel() -> None:
    assert bounding_box(mask_with((11, 9, 7), BIG)) == BIG
    assert bounding_box(mask_with((11, 9, 7), BIG, SMALL)) == (slice(2, 10), slice(3, 9), slice(0, 6))
    assert bounding_box(mask_with((5,), (slice(1, 3),))) == (slice(1, 3),)
    assert bounding_box(mask_with((11, 9, 7))) is None


def test_largest_component() -> None:
    pytest.importorskip("scipy")
    largest = largest_component(mask_with((11, 9, 7), SMALL, BIG))
    assert torch.equal(largest, mask_with((11, 9, 7), BIG))
    assert not largest_component(mask_with((4, 4, 4))).any()
    corners = mask_with((4, 4, 4), (slice(0, 1),) * 3, (slice(1, 3),) * 3)
    assert largest_component(corners).sum() == 8
    assert largest_component(corners, connectivity=3).sum() == 9


def test_locate_takes_the_lesion_then_the_brain_then_the_volume() -> None:
    pytest.importorskip("scipy")
    shape = (11, 9, 7)
    brain = mask_with(shape, (slice(1, 9), slice(1, 9), slice(1, 3)))
    found = locate(mask_with(shape, BIG, SMALL), brain)
    assert found.box == BIG and found.centre == (4, 4, 2)
    empty = locate(mask_with(shape), brain)
    assert empty.box is None and empty.centre == (5, 5, 2)
    assert locate(mask_with(shape), mask_with(shape)).centre == (5, 4, 3)


@pytest.mark.parametrize(
    ("centre", "start"), [(10, 6), (0, 0), (2, 0), (4, 0), (5, 1), (16, 12), (17, 12), (19, 12), (40, 12), (-7, 0)]
)
def test_a_crop_is_shifted_to_stay_inside(centre: int, start: int) -> None:
    assert crop_around((20,), (centre,), 8) == Crop((slice(start, start + 8),), ((0, 0),))


@pytest.mark.parametrize("centre", [0, 2, 4])
def test_a_crop_is_padded_where_the_volume_is_smaller(centre: int) -> None:
    assert crop_around((5, 9), (centre, 8), (8, 4)) == Crop((slice(0, 5), slice(5, 9)), ((1, 2), (0, 0)))


@pytest.mark.parametrize("shape", [(12, 9, 7), (4, 9, 5), (3, 2, 1), (8, 6, 5)])
def test_pasting_undoes_cutting(shape: tuple[int, ...]) -> None:
    volume = torch.randn(2, *shape)
    crop = crop_around(shape, (3, 8, 0), (8, 6, 5))
    cut = crop.cut(volume)
    assert cut.shape == (2, 8, 6, 5) and crop.size == (8, 6, 5)
    assert torch.count_nonzero(cut) == volume[(slice(None), *crop.slices)].numel()
    canvas = torch.full_like(volume, -5)
    assert crop.paste(canvas, cut) is canvas
    inside = mask_with(shape, crop.slices).expand_as(volume)
    assert torch.equal(canvas[inside], volume[inside])
    assert (canvas[~inside] == -5).all()


def test_the_padding_has_the_value_asked_for() -> None:
    cut = crop_around((2, 2), (1, 1), 4).cut(torch.ones(1, 2, 2), value=7)
    assert cut.sum() == 4 + 12 * 7 and (cut[0, 1:3, 1:3] == 1).all()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bounding_box: mask is torch.float32 of shape \(2,\), expected bool"):
        bounding_box(torch.zeros(2))
    with pytest.raises(ValueError, match="connectivity is 4, expected a number from 1 to 3"):
        largest_component(mask_with((2, 2, 2)), connectivity=4)
    with pytest.raises(ValueError, match=r"brain has shape \(3, 2\), expected that of mask, \(2, 2\)"):
        locate(mask_with((2, 2)), mask_with((3, 2)))
    with pytest.raises(ValueError, match=r"centre \(1, 2\) and size \(8, 8, 8\), expected one number an axis"):
        crop_around((9, 9, 9), (1, 2), 8)
    with pytest.raises(ValueError, match=r"size \(8, 0\), expected numbers >= 1"):
        crop_around((9, 9), (1, 2), (8, 0))
    with pytest.raises(ValueError, match=r"values have shape \(1, 3\), expected spatial sizes \(4,\)"):
        crop_around((9,), (4,), 4).paste(torch.zeros(1, 9), torch.zeros(1, 3))


def test_centre_of() -> None:
    assert centre_of((slice(0, 1), slice(2, 5), slice(2, 6))) == (0, 3, 4)
