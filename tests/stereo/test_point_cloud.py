"""Point clouds: which points are in them, and in which colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastseg.stereo import point_cloud, triangulate

RNG = np.random.default_rng(0)
POINTS = triangulate(RNG.uniform(5, 50, (6, 8)).astype(np.float32), focal_length=50.0, baseline=10.0)
IMAGE = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_all_points_in_the_order_of_the_pixels() -> None:
    cloud = point_cloud(POINTS, IMAGE)
    assert cloud.points.dtype == np.float32 and cloud.colors.dtype == np.uint8
    np.testing.assert_array_equal(cloud.points, POINTS.reshape(-1, 3))
    np.testing.assert_array_equal(cloud.colors, IMAGE.reshape(-1, 3))
    assert point_cloud(POINTS).colors is None


def test_which_points() -> None:
    points = POINTS.copy()
    points[0, 0] = np.nan
    points[1, 2, 0] = np.inf
    points[2, 3, 2] = 0
    points[3, 4, 2] = -5
    valid = np.ones((6, 8), bool)
    valid[4] = False
    limit = float(np.median(POINTS[..., 2]))
    expected = valid & (points[..., 2] <= limit) & (points[..., 2] > 0)
    expected[0, 0] = expected[1, 2] = False
    cloud = point_cloud(points, IMAGE, valid, max_depth=limit)
    np.testing.assert_array_equal(cloud.points, points[expected])
    np.testing.assert_array_equal(cloud.colors, IMAGE[expected])
    assert 0 < len(cloud.points) < 48


def test_no_point_is_left() -> None:
    cloud = point_cloud(POINTS, IMAGE, np.zeros((6, 8), bool))
    assert cloud.points.shape == cloud.colors.shape == (0, 3)


@pytest.mark.parametrize(
    ("colors", "expected"),
    [
        (IMAGE.transpose(2, 0, 1), IMAGE),
        (torch.from_numpy(IMAGE).movedim(-1, 0), IMAGE),
        (IMAGE[..., 0], np.repeat(IMAGE[..., :1], 3, -1)),
        (IMAGE / 255, IMAGE),
        ((IMAGE / 255).astype(np.float32), IMAGE),
        (torch.from_numpy(IMAGE / 255).requires_grad_(), IMAGE),
        (IMAGE.astype(np.uint16) * 257, IMAGE),
        (torch.from_numpy(IMAGE.astype(np.uint16) * 257), IMAGE),
        (np.full((6, 8), 1.07), np.full((6, 8, 3), 255)),
        (np.full((6, 8), np.nan), np.zeros((6, 8, 3))),
        (np.full((6, 8), 128, np.uint16), np.zeros((6, 8, 3))),
        (np.full((6, 8), 129, np.uint16), np.ones((6, 8, 3))),
    ],
)
def test_colours(colors: object, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(point_cloud(POINTS, colors).colors, expected.reshape(-1, 3))


def test_kinds_of_arrays() -> None:
    tensor = torch.from_numpy(POINTS).double().requires_grad_()
    cloud = point_cloud(tensor, torch.from_numpy(IMAGE), torch.ones(6, 8, dtype=torch.bool))
    assert isinstance(cloud.points, np.ndarray) and cloud.points.dtype == np.float32
    np.testing.assert_array_equal(cloud.points, POINTS.reshape(-1, 3))
    flat = point_cloud(POINTS.reshape(-1, 3), IMAGE.reshape(-1, 3))
    np.testing.assert_array_equal(flat.colors, cloud.colors)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((POINTS[..., :2],), ValueError, r"points has shape \(6, 8, 2\), expected \(\.\.\., 3\)"),
        ((np.ones(3),), ValueError, r"points has shape \(3,\), expected"),
        ((np.ones((4, 3), int),), TypeError, "points is torch.int64, expected floating point"),
        (
            (POINTS, IMAGE[:5]),
            ValueError,
            r"colors has shape \(5, 8, 3\), expected one colour for each point of \(6, 8",
        ),
        ((POINTS, IMAGE.astype(int)), TypeError, "colors is torch.int64, expected uint8, uint16 or floating point"),
        (
            (POINTS, 200.0 * np.ones((6, 8, 3))),
            ValueError,
            "colors has values from 200 to 200, expected floating point",
        ),
        ((POINTS, IMAGE > 3), TypeError, "colors is torch.bool, expected"),
        ((POINTS, None, np.ones((6, 8))), ValueError, r"valid is torch.float64 of shape \(6, 8\), expected bool of"),
        (
            (POINTS, None, np.ones((8, 6), bool)),
            ValueError,
            r"valid is torch.bool of shape \(8, 6\), expected bool of \(6, 8\)",
        ),
        ((POINTS, None, None, 0), ValueError, "max_depth is 0, expected a number > 0"),
        ((POINTS, None, None, float("nan")), ValueError, "max_depth is nan, expected a number > 0"),
    ],
)
def test_refused(arguments: tuple, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^point_cloud: {words}"):
        point_cloud(*arguments)
