"""Masks, z-scores and other grids: what is promised of each, for NumPy and torch, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastseg.segmentation.preprocess import brain_mask, resample, resize, zscore

# Axes to the left, to the back and down, then permuted and turned a little.
OBLIQUE = np.array([[0, -1.2, 0.1, 10], [-0.9, 0, 0, -20], [0.05, 0, -3, 30], [0, 0, 0, 1]])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def brain(*shape: int) -> np.ndarray:
    """Three channels, of which the third is empty, zero outside a mask that the first two share in part."""
    image = np.zeros((3, *shape), np.float32)
    image[0, 1:4] = 50 * noise(3, *shape[1:]) + 300
    image[1, 2:5] = 7
    return image


def test_a_mask_is_where_any_channel_is_not_zero() -> None:
    image = brain(6, 5, 4)
    image[0, 1:4] = -3
    mask = brain_mask(image)
    assert mask.dtype == bool
    np.testing.assert_array_equal(np.flatnonzero(mask.all((1, 2))), [1, 2, 3, 4])
    np.testing.assert_array_equal(np.flatnonzero(mask.any((1, 2))), [1, 2, 3, 4])
    assert torch.equal(brain_mask(torch.from_numpy(image)), torch.from_numpy(mask))
    np.testing.assert_array_equal(brain_mask(image.astype(np.int16)), mask)


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_zscores_inside_the_brain(shape: tuple[int, ...], dtype: type) -> None:
    image = brain(*shape).astype(dtype)
    scores = zscore(image)
    assert scores.shape == image.shape and scores.dtype == np.float32
    inside = brain_mask(image)
    for channel, values in zip(scores[:2], image[:2, inside].astype(np.float64), strict=True):
        expected = (values - values.mean()) / values.std(ddof=1)
        np.testing.assert_allclose(channel[inside], expected, atol=2e-5)
        assert (channel[~inside] == 0).all()
    assert (scores[2] == 0).all()
    tensor = zscore(torch.from_numpy(image))
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), scores)


def test_zscores_inside_a_mask_that_is_given() -> None:
    image = noise(2, 6, 5, 4) + 40  # a background of noise
    mask = np.zeros((6, 5, 4), bool)
    mask[2:5, 1:4] = True
    scores = zscore(image, mask)
    np.testing.assert_allclose(scores[:, mask].mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(scores[:, mask].std(1, ddof=1), 1, atol=1e-4)
    assert (scores[:, ~mask] == 0).all()
    np.testing.assert_array_equal(zscore(torch.from_numpy(image), torch.from_numpy(mask)).numpy(), scores)


@pytest.mark.parametrize("value", [0.1, 7.0, 1e6 / 3, -1e-6 / 3])
def test_one_value_throughout_becomes_zero(value: float) -> None:
    image = np.zeros((1, 40, 30, 20), np.float32)
    image[0, 3:-3] = value
    assert (zscore(image) == 0).all()


def test_images_without_a_brain_become_zero() -> None:
    image = np.zeros((2, 5, 5), np.float32)
    assert (zscore(image) == 0).all()
    image[0, 2, 2] = 4  # a single voxel has no deviation
    assert (zscore(image) == 0).all()


def test_inputs_stay_as_they_are() -> None:
    image = brain(6, 5, 4)
    before = image.copy()
    zscore(image), resize(image, (6, 5, 4))[:].fill(9), resize(image, (3, 5, 4))
    np.testing.assert_array_equal(image, before)


def plane(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """A linear function of the place in space, which linear interpolation brings back."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    return places @ [0.3, -0.2, 0.11] + 5


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(6, 24)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 6)] * 3),
    as_tensor=st.booleans(),
)
def test_every_voxel_keeps_its_place(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], as_tensor: bool
) -> None:
    image = plane(shape, OBLIQUE)
    moved, affine = resample(torch.from_numpy(image) if as_tensor else image, OBLIQUE, spacing, tolerance=0)
    assert isinstance(moved, torch.Tensor) == as_tensor
    values = np.asarray(moved)
    native = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    new_native = np.linalg.norm(affine[:3, :3], axis=0)
    for size, new_size, old, new, asked in zip(shape, values.shape, native, new_native, spacing, strict=True):
        assert new_size * new == pytest.approx(size * old)  # the field of view
        # The number of voxels is the nearest to what was asked for.
        assert abs(new_size - size * old / asked) <= 0.5 + 1e-9 or new_size == 1
    # The outer corner of the first voxel stays, too.
    np.testing.assert_allclose(affine @ [-0.5, -0.5, -0.5, 1], OBLIQUE @ [-0.5, -0.5, -0.5, 1], atol=1e-9)
    # Near the border smoothing and interpolation see values that go on as they are: leave out what that reaches.
    inner = []
    for size, new_size in zip(shape, values.shape, strict=True):
        reach = 1 + 4 * max(0, size / new_size - 1) / 2 + 1
        edge = int(np.ceil(reach * new_size / size))
        inner.append(slice(edge, new_size - edge) if new_size > 2 * edge else slice(0, 0))
    np.testing.assert_allclose(values[tuple(inner)], plane(values.shape, affine)[tuple(inner)], atol=1e-9)


def test_spacings_that_are_near_stay() -> None:
    affine = np.diag([0.98, 1.02, 3.0, 1.0])
    image = noise(2, 10, 11, 7)
    moved, new = resample(image, affine, 1.0)
    assert moved.shape == (2, 10, 11, 21)
    np.testing.assert_allclose(np.diag(new), [0.98, 1.02, 1.0, 1.0])
    same, kept = resample(image, affine, (1, 1, 3))
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(kept, affine)


def test_fine_stripes_do_not_turn_into_coarse_ones() -> None:
    stripes = np.tile(np.array([1.0, -1.0], np.float32), 60)[:, None, None] * np.ones((120, 4, 4), np.float32)
    coarse = resize(stripes, (37, 4, 4))
    assert np.abs(coarse[2:-2]).max() < 0.03


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_labels_take_the_nearest_voxel(kind: Callable) -> None:
    rng = np.random.default_rng(1)
    labels = kind(rng.choice(np.array([0, 1, 2, 4], np.uint8), (7, 5, 6)))
    fine = resize(labels, (21, 5, 18))
    assert fine.dtype == labels.dtype
    np.testing.assert_array_equal(np.asarray(fine), np.asarray(labels).repeat(3, 0).repeat(3, 2))
    np.testing.assert_array_equal(np.asarray(resize(fine, (7, 5, 6))), np.asarray(labels))
    mask = resize(labels == 2, (9, 9, 9))
    assert str(mask.dtype).endswith("bool")
    np.testing.assert_array_equal(np.asarray(mask), np.asarray(resize(labels, (9, 9, 9)) == 2))


@settings(deadline=None, max_examples=30)
@given(old=st.integers(1, 60), new=st.integers(1, 60))
def test_the_nearest_is_the_nearest(old: int, new: int) -> None:
    taken = resize(np.arange(old)[:, None, None], (new, 1, 1)).ravel()
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    # A new centre on the border of two old voxels may go to either.
    assert (np.abs(taken - centres) <= 0.5 + 1e-12).all()


def test_probabilities_there_and_back() -> None:
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in (40, 36, 12)], indexing="ij")
    ball = 1 / (1 + np.exp(12 * (np.sqrt(sum(axis**2 for axis in axes)) - 0.6)))
    image = np.stack([ball, 1 - ball]).astype(np.float32)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    fine, _ = resample(image, affine, 1.0)
    back = resize(fine, image.shape[1:])
    assert back.shape == image.shape and back.dtype == np.float32
    np.testing.assert_allclose(back.sum(0), 1, atol=1e-5)
    assert np.abs(back - image).max() < 0.12 and np.abs(back - image).mean() < 0.01
    assert ((back[0] > 0.5) != (ball > 0.5)).mean() < 0.005


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    image = torch.from_numpy(noise(2, 9, 8, 7)).to(dtype)
    result = resize(image, (5, 8, 11))
    assert result.dtype == dtype
    exact = resize(image.double(), (5, 8, 11))
    # Places along the axes, up to 11, are rounded too.
    torch.testing.assert_close(result.double(), exact, rtol=torch.finfo(dtype).eps, atol=11 * torch.finfo(dtype).eps)


def test_what_is_refused() -> None:
    image, affine = noise(2, 6, 5, 4), np.eye(4)
    broken = image.copy()
    broken[0, 1, 2, 3] = np.nan
    calls = (
        (lambda: brain_mask(image[0, 0, 0]), r"brain_mask: image has shape \(4,\), expected \(channels, \.\.\.\)"),
        (lambda: zscore(image[:0]), r"zscore: image has shape \(0, 6, 5, 4\)"),
        (lambda: zscore(broken), "zscore: image has 1 values that are NaN or infinite"),
        (lambda: zscore(image, image[0]), r"zscore: mask is torch.float32 of shape \(6, 5, 4\), expected bool"),
        (lambda: zscore(image, image > 0), r"shape \(2, 6, 5, 4\), expected bool of \(6, 5, 4\)"),
        (lambda: resample(image, np.eye(3), 1), r"resample: affine is .*, expected \(4, 4\) with an inverse"),
        (lambda: resample(image, np.diag([1, 1, 0, 1]), 1), "with an inverse"),
        (lambda: resample(image, affine, 0), "resample: spacing is 0, expected millimetres above zero"),
        (lambda: resample(image, affine, (1, 2)), r"spacing is \(1, 2\)"),
        (lambda: resample(image, affine, float("nan")), "spacing is nan"),
        (lambda: resample(image, affine, 1, tolerance=-1), "tolerance is -1"),
        (lambda: resample(image[0, 0], affine, 1), r"resample: image has shape \(5, 4\)"),
        (lambda: resize(image, (1, 2)), r"resize: shape is \(1, 2\), expected three sizes of at least 1"),
        (lambda: resize(image, (1, 2, 0)), r"resize: shape is \(1, 2, 0\)"),
        (lambda: resize(image, (1, 2.5, 3)), r"resize: shape is \(1, 2\.5, 3\)"),
        (lambda: resize(image[:0], (1, 2, 3)), r"resize: values has shape \(0, 6, 5, 4\), expected .* with a voxel"),
    )
    for call, words in calls:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="zscore: image is a list"):
        zscore([1.0])
