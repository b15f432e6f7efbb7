"""weighted_median on CPU: by its definition in float64, for every dtype, shape and layout."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastseg import reference
from fastseg.backends import cpu_weighted_median as cpu
from fastseg.ops import weighted_median
from tests.support import (
    DTYPES,
    IMAGE_LAYOUTS,
    assert_same_bits,
    for_thread_counts,
    pairwise,
    picture,
    poison,
    rerun_with_capability,
)
from tests.weighted_medians import assert_weighted_median, random_mask, random_weights

SETTINGS = {"radius": 4, "sigma_color": 0.3, "sigma_space": 4.0}
ODD = (37, 53)
#: A single pixel, single lines, less than a vector, windows cut on both sides, several pieces of a row.
SIZES = ((1, 1), (1, 7), (7, 1), (2, 2), (1, 300), (300, 1), (5, 70), (70, 3), (33, 65))


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_output")


def check(src: Tensor, guide: Tensor, **arguments: object) -> None:
    arguments = {**SETTINGS, **arguments}
    actual = weighted_median(src, guide, **arguments)
    assert actual.dtype == src.dtype and actual.shape == src.shape and actual.is_contiguous()
    assert_weighted_median(actual, src, guide, **arguments)


def test_reference_is_the_definition():
    """Pixel by pixel, in a loop over its window."""
    src, guide = picture(7, 9, dtype=torch.float64), picture(3, 7, 9, dtype=torch.float64, seed=1)
    weights = torch.rand(7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mask = random_mask(7, 9)
    expected = src.clone()
    for y, x in mask.nonzero().tolist():
        window = []
        for v in range(max(y - 2, 0), min(y + 3, 7)):
            for u in range(max(x - 2, 0), min(x + 3, 9)):
                colour = (guide[:, v, u] - guide[:, y, x]).square().sum().item() / 0.3**2
                place = ((v - y) ** 2 + (u - x) ** 2) / 1.5**2
                window.append((src[v, u].item(), weights[v, u].item() * math.exp(-colour) * math.exp(-place)))
        window.sort()
        half, so_far = sum(weight for _, weight in window) / 2, 0.0
        for value, weight in window:
            so_far += weight
            if so_far >= half:
                expected[y, x] = value
                break
    arguments = {"radius": 2, "sigma_color": 0.3, "sigma_space": 1.5, "mask": mask, "weights": weights}
    assert torch.equal(reference.weighted_median(src, guide, **arguments), expected)
    assert torch.equal(weighted_median(src, guide, **arguments), expected)


@pytest.mark.parametrize(("size", "dtype", "guide_channels"), pairwise(SIZES, (*DTYPES, torch.uint8), (1, 3)), ids=str)
def test_against_float64(size, dtype, guide_channels):
    src, guide = picture(2, *size, dtype=dtype), picture(guide_channels, *size, dtype=torch.float64, seed=1)
    check(src, guide)
    check(src, guide, mask=random_mask(*size), weights=random_weights(2, *size))


@pytest.mark.parametrize("src_dtype", (*DTYPES, torch.uint8), ids=str)
@pytest.mark.parametrize("guide_dtype", (*DTYPES, torch.uint8), ids=str)
def test_every_dtype_of_the_guide(src_dtype, guide_dtype):
    sigma = 60.0 if guide_dtype == torch.uint8 else 0.2
    check(picture(*ODD, dtype=src_dtype), picture(3, *ODD, dtype=guide_dtype, seed=1), sigma_color=sigma)


@pytest.mark.parametrize("dtype", (*DTYPES, torch.uint8, torch.bool), ids=str)
def test_every_dtype_of_the_weights(dtype):
    weights = 8 * random_weights(*ODD)
    check(picture(*ODD), picture(*ODD, seed=1), weights=weights.to(dtype))


@pytest.mark.parametrize("radius", (0, 1, 2, 7, 9, 12, 30, 127))
def test_radii(radius):
    mask = random_mask(*ODD) if radius < 30 else random_mask(*ODD) & random_mask(*ODD, seed=1)
    check(picture(*ODD), picture(*ODD, seed=1), radius=radius, sigma_space=radius + 1.0, mask=mask)


@pytest.mark.parametrize(
    ("dtype", "sigma_space", "sigma_color"),
    pairwise((torch.float32, torch.float64), (1e-15, 2.0, 1e15), (1e-15, 1e-2, 1e15)),
    ids=str,
)
def test_narrow_and_wide(sigma_color, sigma_space, dtype):
    src, guide = picture(*ODD, dtype=dtype), picture(*ODD, seed=1)
    check(src, guide, sigma_color=sigma_color, sigma_space=sigma_space)
    # With the pixel itself: exponents of 1e30 alone are too coarse to compare weights by.
    weights = random_weights(*ODD) + 0.5
    check(src, guide, sigma_color=sigma_color, sigma_space=sigma_space, weights=weights)


def test_wide_sigmas_give_the_median():
    """Equal weights add up without rounding: the lower of the two in the middle where a window is even."""
    src = picture(20, 30)
    actual = weighted_median(src, torch.zeros(20, 30), radius=3, sigma_space=1e15)
    for y, x in ((10, 10), (0, 0), (19, 3), (5, 29), (0, 12)):
        window = src[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
        assert actual[y, x] == window.median()


@pytest.mark.parametrize("dtype", (*DTYPES, torch.uint8), ids=str)
def test_numbers_of_any_size_and_sign(dtype):
    """Zeros of both signs, subnormal numbers, the largest ones, and few different ones."""
    generator = torch.Generator().manual_seed(4)
    if dtype == torch.uint8:
        src = torch.randint(0, 256, ODD, generator=generator, dtype=dtype)
    else:
        largest = torch.finfo(dtype).max
        special = [0.0, -0.0, largest, -largest, torch.finfo(dtype).tiny / 2, -torch.finfo(dtype).tiny, 1.0, -1.0]
        some = torch.tensor(special, dtype=dtype)[torch.randint(0, 8, ODD, generator=generator)]
        exponents = 20 * torch.rand(ODD, generator=generator) - 10
        spread = (torch.randn(ODD, generator=generator).sign() * exponents.exp()).to(dtype)
        src = torch.where(torch.rand(ODD, generator=generator) < 0.5, some, spread)
    check(src, picture(*ODD, seed=1))
    check((src > 0).to(dtype), picture(*ODD, seed=1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    guide_channels=st.sampled_from((1, 3)),
    dtype=st.sampled_from((*DTYPES, torch.uint8)),
    radius=st.integers(0, 12),
    sigma_color=st.floats(1e-3, 10),
    sigma_space=st.floats(0.1, 100),
    masked=st.booleans(),
    weighted=st.booleans(),
)
def test_any_shape(leading, height, width, guide_channels, dtype, radius, sigma_color, sigma_space, masked, weighted):
    size = height, width
    check(
        picture(*leading, *size, dtype=dtype),
        picture(guide_channels, *size, seed=1),
        radius=radius,
        sigma_color=sigma_color,
        sigma_space=sigma_space,
        mask=random_mask(*size) if masked else None,
        weights=random_weights(*leading, *size) if weighted else None,
    )


# ---- masks and weights -----------------------------------------------------------------------------------------------


def test_pixels_outside_of_the_mask_are_copied():
    src, guide, mask = picture(2, *ODD), picture(3, *ODD, seed=1), random_mask(*ODD)
    everywhere = weighted_median(src, guide, **SETTINGS)
    assert not torch.equal(everywhere, src)
    assert torch.equal(weighted_median(src, guide, mask=mask, **SETTINGS), torch.where(mask, everywhere, src))
    assert torch.equal(weighted_median(src, guide, mask=torch.zeros_like(mask), **SETTINGS), src)
    assert torch.equal(weighted_median(src, guide, mask=torch.ones_like(mask), **SETTINGS), everywhere)


def test_one_pixel_of_a_large_image():
    """Rows far from the mask are not even read in the type computed in."""
    src, guide = picture(200, 210), picture(3, 200, 210, seed=1)
    mask = torch.zeros(200, 210, dtype=torch.bool)
    mask[100, 31] = True
    check(src, guide, mask=mask)


@pytest.mark.parametrize("what", ("mask", "weights"))
@pytest.mark.parametrize("guide_shape", ((3, *ODD), (2, 3, *ODD)), ids=str)
@pytest.mark.parametrize("leading", ((), (1, 1), (5,), (1, 5), (2, 1), (2, 5)), ids=str)
def test_masks_and_weights_of_some_images(leading, guide_shape, what):
    """Five channels: more than are weighed together."""
    src, guide = picture(2, 5, *ODD), picture(*guide_shape, seed=1)
    over = random_mask(*leading, *ODD) if what == "mask" else random_weights(*leading, *ODD)
    together = weighted_median(src, guide, **{what: over}, **SETTINGS)
    for b, c in ((0, 0), (1, 3), (1, 4)):
        own = {what: over.expand(2, 5, *ODD)[b, c]}
        alone = weighted_median(src[b, c], guide if guide.ndim == 3 else guide[b], **own, **SETTINGS)
        assert torch.equal(together[b, c], alone)


def test_pixels_without_weight_are_never_chosen():
    src, guide = picture(*ODD), picture(*ODD, seed=1)
    invalid = random_mask(*ODD)
    filled = weighted_median(
        torch.where(invalid, -1, src), guide, mask=invalid, weights=~invalid, radius=9, sigma_space=5.0
    )
    assert (filled >= 0).all() and torch.equal(filled[~invalid], src[~invalid])


def test_windows_without_weight_stay():
    src, guide = picture(30, 40), picture(30, 40, seed=1)
    weights = torch.zeros(30, 40)
    assert torch.equal(weighted_median(src, guide, weights=weights, **SETTINGS), src)
    weights[15, 20] = 0.5
    filtered = weighted_median(src, guide, weights=weights, **SETTINGS)
    reached = torch.zeros(30, 40, dtype=torch.bool)
    reached[11:20, 16:25] = True
    assert torch.equal(filtered, torch.where(reached, src[15, 20], src))


def test_weights_that_all_vanish_decide_by_their_ratios():
    """exp(-10000) is no number of any of these types, but one such weight against another decides."""
    src = torch.tensor([[0.0, 10.0, 20.0]])
    guide = torch.tensor([[0.0, 10.0, 10.1]])
    only = weighted_median(src, guide, radius=2, weights=torch.tensor([[0.0, 1.0, 1.0]]))
    assert only[0, 0] == 10


@pytest.mark.parametrize("scale", (1e-20, 1e20))
def test_scale_of_the_weights_is_nothing(scale):
    src, guide, weights = picture(*ODD), picture(*ODD, seed=1), random_weights(*ODD)
    power = 2.0 ** round(math.log2(scale))
    expected = weighted_median(src, guide, weights=weights, **SETTINGS)
    assert torch.equal(weighted_median(src, guide, weights=weights * power, **SETTINGS), expected)


# ---- images and their layouts ----------------------------------------------------------------------------------------


def test_guides_of_a_batch():
    src, guide = picture(3, 2, 30, 40), picture(3, 3, 30, 40, seed=1)
    together = weighted_median(src, guide, **SETTINGS)
    for image, colours, result in zip(src, guide, together, strict=True):
        assert torch.equal(weighted_median(image, colours, **SETTINGS), result)


@pytest.mark.parametrize("guide_shape", (ODD, (1, *ODD)))
def test_grey_guides(guide_shape):
    src, guide = picture(2, 3, *ODD), picture(*ODD, seed=1)
    expected = weighted_median(src, guide.expand(2, 1, *ODD), **SETTINGS)
    assert torch.equal(weighted_median(src, guide.view(guide_shape), **SETTINGS), expected)


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
def test_layouts(layout):
    src, guide, weights = (picture(2, 3, *ODD, seed=seed) for seed in (0, 1, 2))
    mask = weights > 0.4
    placed = [IMAGE_LAYOUTS[layout](t) for t in (src, guide, weights)]
    placed_mask = mask if layout == "cropped" else IMAGE_LAYOUTS[layout](mask)  # nobody pads with NaN of bool
    images = [t.contiguous() for t in (*placed, placed_mask)]
    expected = weighted_median(images[0], images[1], weights=images[2], mask=images[3], **SETTINGS)
    actual = weighted_median(placed[0], placed[1], weights=placed[2], mask=placed_mask, **SETTINGS)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("batch", (1, 5))
def test_same_bits_for_every_number_of_threads(batch):
    src, guide = picture(batch, 2, 90, 110), picture(batch, 3, 90, 110, seed=1)
    weights = random_weights(90, 110)
    assert_same_bits(for_thread_counts((1, 2, 3, 7), lambda: weighted_median(src, guide, weights=weights, **SETTINGS)))


def test_a_pixel_does_not_depend_on_the_image_around_its_window():
    src, guide = picture(60, 80), picture(3, 60, 80, seed=1)
    whole, part = (
        weighted_median(s, g, **SETTINGS) for s, g in ((src, guide), (src[7:50, 9:71], guide[:, 7:50, 9:71]))
    )
    assert torch.equal(whole[11:46, 13:67], part[4:-4, 4:-4])


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(
        __file__, capability, "float64 or dtype or radii or narrow or sign or shape or layouts or stay"
    )
