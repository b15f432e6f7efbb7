"""Labels, regions and classes: from each to the others and back, for NumPy and torch, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fastseg.segmentation.labels import (
    LABELS,
    REGION_NAMES,
    REGIONS,
    classes_of,
    labels_named,
    labels_of,
    labels_of_classes,
    regions_of,
)

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
LABEL_MAPS = st.sampled_from([np.uint8, np.int16, np.int64]).flatmap(
    lambda dtype: arrays.arrays(dtype, SHAPES, elements=st.sampled_from([0, *LABELS]))
)


def test_names() -> None:
    assert list(REGIONS) == list(REGION_NAMES) == ["WT", "TC", "ET"]
    assert set(REGIONS["WT"]) == set(LABELS)


def test_labels_by_name() -> None:
    names = ("WT", "tc", "Et", "3", "-2", "70000")
    assert [labels_named(name) for name in names] == [(1, 2, 4), (1, 4), (4,), (3,), (-2,), (70000,)]
    for name in ("0", "", "oedema", "1.5", "1,2"):
        with pytest.raises(ValueError, match=f"label is '{name}', expected a whole number other than 0, or one of WT"):
            labels_named(name)


@given(labels=LABEL_MAPS)
def test_there_and_back(labels: np.ndarray) -> None:
    regions = regions_of(labels)
    assert regions.shape == (3, *labels.shape) and regions.dtype == bool
    for region, members in zip(regions, REGIONS.values(), strict=True):
        np.testing.assert_array_equal(region, np.isin(labels, members))
    back = labels_of(regions)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)
    classes = classes_of(labels)
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(np.array([0, 1, 2, 4])[classes], labels)
    assert labels_of_classes(classes).dtype == np.uint8
    np.testing.assert_array_equal(labels_of_classes(classes), labels)


@given(labels=LABEL_MAPS)
def test_tensors_give_what_arrays_give(labels: np.ndarray) -> None:
    tensor = torch.from_numpy(labels.copy())
    for function, argument, array in (
        (regions_of, tensor, labels),
        (labels_of, torch.from_numpy(regions_of(labels)), regions_of(labels)),
        (classes_of, tensor, labels),
        (labels_of_classes, torch.from_numpy(np.asarray(classes_of(labels))), classes_of(labels)),
    ):
        result = function(argument)
        assert isinstance(result, torch.Tensor)
        expected = function(array)
        np.testing.assert_array_equal(result.numpy(), expected)
        assert result.numpy().dtype == expected.dtype


def test_regions_that_are_not_nested() -> None:
    whole, core, enhancing = np.array([*np.ndindex(2, 2, 2)], bool).T
    expected = [4 if e else 1 if c else 2 if w else 0 for w, c, e in zip(whole, core, enhancing, strict=True)]
    np.testing.assert_array_equal(labels_of(np.stack([whole, core, enhancing])), expected)


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_values_that_are_refused(make: type) -> None:
    for function, values, words in (
        (regions_of, [0, 3, 4], "labels holds 3, expected 0, 1, 2, 4"),
        (classes_of, [-1, 0, 5], "labels holds -1, 5, expected 0, 1, 2, 4"),
        (classes_of, list(range(30)), "labels holds 3, 5, 6, 7, 8 and 21 more, expected"),
        (labels_of_classes, [0, 4], "classes holds 4, expected 0, 1, 2, 3"),
        (regions_of, [0.0, 1.0], r"labels is (torch\.)?float\d\d, expected integers"),
        (classes_of, [True, False], r"labels is (torch\.)?bool, expected integers"),
        (labels_of, [[0.2], [0.7], [0.1]], r"regions is .*float\d\d of shape \(3, 1\), expected bool of \(3, \.\.\.\)"),
        (labels_of, [[True], [True]], r"shape \(2, 1\), expected bool of \(3, \.\.\.\): WT, TC, ET"),
        (labels_of, True, r"shape \(\), expected"),
    ):
        with pytest.raises(ValueError, match=words):
            function(make(values))
