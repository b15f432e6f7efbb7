"""Numbers of a rectified pair: checks, and images of another size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fastseg.stereo import RectifiedCalibration, triangulate

FULL = RectifiedCalibration(400.0, 120.0, 12.0, 79.5, 51.5, 160, 120, 33)


def test_scaled() -> None:
    assert FULL.scaled(0.5) == RectifiedCalibration(200.0, 120.0, 6.0, 39.5, 25.5, 80, 60, 17)
    assert FULL.scaled(1) == FULL
    bare = RectifiedCalibration(400.0, 120.0).scaled(2)
    assert bare == RectifiedCalibration(800.0, 120.0)


@pytest.mark.parametrize("factor", [0.5, 0.25, 2])
def test_points_stay_where_they_are(factor: float) -> None:
    """A plane seen by a smaller or larger image: the corners of its pixels are corners of the full ones."""
    scaled = FULL.scaled(factor)

    def corners(calibration: RectifiedCalibration) -> np.ndarray:
        """Where the rays through the image's outer corners meet Z = 1."""
        x = (np.array([-0.5, calibration.width - 0.5]) - calibration.cx) / calibration.focal_length
        y = (np.array([-0.5, calibration.height - 0.5]) - calibration.cy) / calibration.focal_length
        return np.concatenate((x, y))

    np.testing.assert_allclose(corners(scaled), corners(FULL), rtol=1e-12)
    depth = scaled.triangulate(np.full((scaled.height, scaled.width), 20.0 * factor))[0, 0, 2]
    assert depth == pytest.approx(400.0 * 120.0 / (20.0 + 12.0))


def test_the_middle_of_the_image_scales_to_the_middle() -> None:
    middle = dataclasses.replace(FULL, cx=(160 - 1) / 2, cy=(120 - 1) / 2).scaled(0.25)
    assert (middle.cx, middle.cy) == ((40 - 1) / 2, (30 - 1) / 2)


def test_middlebury_s_quarter() -> None:
    """Motorcycle: its published quarter size has cx / 4, 0.375 pixels away."""
    full = RectifiedCalibration(3979.911, 193.001, 124.343, 1244.772, 1019.507, 2964, 1988, 280)
    quarter = full.scaled(0.25)
    assert (quarter.focal_length, quarter.doffs) == pytest.approx((994.978, 31.086), abs=5e-4)
    assert (quarter.width, quarter.height, quarter.max_disparity) == (741, 497, 70)
    assert (quarter.cx, quarter.cy) == pytest.approx((311.193 - 0.375, 254.877 - 0.375), abs=5e-4)


def test_triangulate() -> None:
    d = np.random.default_rng(0).uniform(1, 32, (120, 160)).astype(np.float32)
    expected = triangulate(d, focal_length=400.0, baseline=120.0, doffs=12.0, cx=79.5, cy=51.5)
    np.testing.assert_array_equal(FULL.triangulate(d), expected)
    with pytest.raises(ValueError, match=r"disparity has shape \(60, 80\), expected height 120; scaled"):
        FULL.triangulate(d[::2, ::2])
    with pytest.raises(ValueError, match=r"disparity has shape \(120, 80\), expected width 160; scaled"):
        FULL.triangulate(d[:, ::2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"focal_length": 0.0}, r"focal_length is 0\.0, expected a finite number > 0"),
        ({"baseline": float("nan")}, "baseline is nan, expected a finite number > 0"),
        ({"baseline": -3.0}, r"baseline is -3\.0, expected a finite number > 0"),
        ({"doffs": float("inf")}, "doffs is inf, expected a finite number"),
        ({"cx": float("nan")}, "cx is nan, expected a finite number"),
        ({"width": 0}, "width is 0, expected a whole number >= 1"),
        ({"height": 2.5}, r"height is 2\.5, expected a whole number >= 1"),
        ({"max_disparity": -1}, "max_disparity is -1, expected a whole number >= 1"),
    ],
)
def test_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=f"^RectifiedCalibration: {words}$"):
        dataclasses.replace(FULL, **change)


def test_refused_factor() -> None:
    with pytest.raises(ValueError, match="factor is 0, expected a finite number > 0"):
        FULL.scaled(0)


def test_it_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.baseline = 1.0  # type: ignore[misc]
