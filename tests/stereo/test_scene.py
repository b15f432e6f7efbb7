"""The rendered pair: its truth against geometry by brute force, its images against the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fastseg.stereo import RenderedPair, rendered_pair
from fastseg.stereo.scene import _scene
from fastseg.stereo.scene_surfaces import Box, Plane, Pole, Sphere, Surface

Array = NDArray[np.float64]
DOFFS = 24.0  # so much that some disparities are negative


@pytest.fixture(scope="module")
def pair() -> RenderedPair:
    return rendered_pair()


@pytest.fixture(scope="module")
def shifted() -> RenderedPair:
    return rendered_pair(150, 201, seed=5, baseline=0.4, doffs=DOFFS)


def inside(surface: Surface, points: Array) -> Array:
    """(N,): below zero in what the surface encloses, beyond zero outside; for planes, spheres and poles in metres.

    Written from the shapes alone, without the code that casts rays at them.
    """
    x, y, z = points
    if isinstance(surface, Plane):
        px, py, pz = surface.point
        nx, ny, nz = np.array(surface.towards) / math.dist(surface.towards, (0, 0, 0))
        return nx * (x - px) + ny * (y - py) + nz * (z - pz)
    if isinstance(surface, Sphere):
        cx, cy, cz = surface.centre
        return np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) - surface.radius
    if isinstance(surface, Pole):
        return np.hypot(x - surface.centre[0], z - surface.centre[1]) - surface.radius
    assert isinstance(surface, Box)
    cx, cy, cz = surface.centre
    # The box's own axes: turning about y by -turn brings the point to them.
    turned = ((x - cx) + 1j * (z - cz)) * np.exp(-1j * surface.turn)
    half = surface.half
    return np.max([np.abs(turned.real) - half[0], np.abs(y - cy) - half[1], np.abs(turned.imag) - half[2]], axis=0)


def points_of(pair: RenderedPair, disparity: Array, columns: Array, rows: Array) -> Array:
    """(3, N): the points in space of pixels of the left image."""
    depth = pair.focal_length * pair.baseline / (disparity + pair.doffs)
    return np.stack(
        [(columns - pair.cx) / pair.focal_length * depth, (rows - pair.cy) / pair.focal_length * depth, depth]
    )


def hidden(surfaces: list[Surface], camera: Array, points: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether something is between a camera and points on surfaces, and whether that is beyond doubt: by walking."""
    way = points - camera
    steps = np.linspace(0.2, 1, 2500)
    result, sure = np.zeros(points.shape[1], bool), np.ones(points.shape[1], bool)
    own = np.abs([inside(surface, points) for surface in surfaces]).argmin(axis=0)
    before = points - 2e-3 * way  # of the surface that the point is on, all of them convex: a step back is enough
    for number, surface in enumerate(surfaces):
        here = own == number
        back = inside(surface, before)
        result |= here & (back < 0)
        sure &= ~here | (np.abs(back) > 1e-5)
        walked = camera[..., None] + way[..., None] * steps
        least = inside(surface, walked.reshape(3, -1)).reshape(-1, steps.size).min(axis=1)
        result |= ~here & (least < -1e-4)
        sure &= here | (least < -1e-4) | (least > 1e-3)
    return result, sure


@pytest.fixture(params=["pair", "shifted"])
def made(request: pytest.FixtureRequest) -> tuple[RenderedPair, list[Surface]]:
    seed = {"pair": 0, "shifted": 5}[request.param]
    chosen: RenderedPair = request.getfixturevalue(request.param)
    return chosen, _scene(np.random.default_rng(seed), chosen.focal_length)


def some_pixels(pair: RenderedPair, count: int = 600) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(9)
    height, width = pair.disparity.shape
    return rng.integers(height, size=count), rng.integers(width, size=count)


def test_shapes_and_types(shifted: RenderedPair) -> None:
    for image in (shifted.left, shifted.right):
        assert image.shape == (3, 150, 201) and image.dtype == np.uint8
    for disparity in (shifted.disparity, shifted.disparity_right, shifted.depth):
        assert disparity.shape == (150, 201) and disparity.dtype == np.float32 and np.isfinite(disparity).all()
    assert shifted.occluded.shape == (150, 201) and shifted.occluded.dtype == np.bool_
    assert shifted.focal_length == pytest.approx(1.1 * 201) and (shifted.baseline, shifted.doffs) == (0.4, DOFFS)
    assert (shifted.cx, shifted.cy) == (100, 74.5)


@pytest.mark.parametrize("right", [False, True], ids=["left", "right"])
def test_the_truth_is_the_first_surface_of_each_ray(made: tuple[RenderedPair, list[Surface]], right: bool) -> None:
    pair, surfaces = made
    rows, columns = some_pixels(pair)
    disparity = (pair.disparity_right if right else pair.disparity)[rows, columns].astype(np.float64)
    points = points_of(pair, disparity, columns - (pair.doffs if right else 0), rows)
    camera = np.array([[pair.baseline if right else 0.0], [0], [0]])
    points += camera
    distances = np.array([inside(surface, points) for surface in surfaces])
    assert np.abs(distances).min(axis=0).max() < 1e-5  # on a surface; disparities are rounded to float32
    between, sure = hidden(surfaces, camera, points)
    assert sure.mean() > 0.9 and not between[sure].any()


def test_occluded_is_what_walking_to_the_right_camera_finds(made: tuple[RenderedPair, list[Surface]]) -> None:
    pair, surfaces = made
    rows, columns = some_pixels(pair)
    # Half of them from the few that are occluded.
    occluded = np.argwhere(pair.occluded)
    rows[::2], columns[::2] = occluded[np.random.default_rng(3).integers(len(occluded), size=len(rows[::2]))].T
    disparity = pair.disparity[rows, columns].astype(np.float64)
    points = points_of(pair, disparity, columns, rows)
    found, sure = hidden(surfaces, np.array([[pair.baseline], [0.0], [0.0]]), points)
    seen_at = columns - disparity
    found |= (seen_at < 0) | (seen_at > pair.disparity.shape[1] - 1)
    assert sure.mean() > 0.9 and 0.3 < found[sure].mean() < 0.7
    np.testing.assert_array_equal(pair.occluded[rows, columns][sure], found[sure])


def test_surfaces_that_face_away_from_the_right_camera_are_occluded(shifted: RenderedPair) -> None:
    """A strip of few pixels at the side of each round object, hidden by the object itself."""
    rows, columns = (axis.ravel() for axis in np.indices(shifted.disparity.shape))
    points = points_of(shifted, shifted.disparity.ravel().astype(np.float64), columns, rows)
    surfaces = _scene(np.random.default_rng(5), shifted.focal_length)
    distances = np.array([inside(surface, points) for surface in surfaces])
    towards = np.array([[shifted.baseline], [0.0], [0.0]]) - points
    a_step_on = np.array([inside(surface, points + 2e-3 * towards) for surface in surfaces])
    own = np.abs(distances).argmin(axis=0)
    away = np.take_along_axis(a_step_on, own[None], 0)[0] < -1e-5
    assert 20 < np.count_nonzero(away) < 2000
    assert shifted.occluded.ravel()[away].all()


def test_depth_and_disparity(shifted: RenderedPair) -> None:
    z = shifted.depth.astype(np.float64)
    np.testing.assert_allclose(shifted.disparity, shifted.focal_length * 0.4 / z - DOFFS, rtol=0, atol=1e-5)


def test_calibration(shifted: RenderedPair) -> None:
    calibration = shifted.calibration
    assert (calibration.width, calibration.height) == (201, 150)
    assert calibration.max_disparity is not None
    assert calibration.max_disparity - 2 <= max(shifted.disparity.max(), shifted.disparity_right.max())
    assert calibration.max_disparity > max(shifted.disparity.max(), shifted.disparity_right.max())
    rows, columns = np.indices(shifted.disparity.shape)
    wide = shifted.disparity.astype(np.float64)
    points = points_of(shifted, wide.ravel(), columns.ravel(), rows.ravel())
    np.testing.assert_allclose(calibration.triangulate(wide).reshape(-1, 3).T, points, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_disparities_are_in_the_stated_range(seed: int) -> None:
    made = rendered_pair(64, 64, seed=seed, samples=1)
    product = made.focal_length * made.baseline
    for disparity in (made.disparity, made.disparity_right):
        assert product / 4.8 < disparity.min() < disparity.max() < product / 1.35
    assert 0.05 < made.occluded.mean() < 0.2


def test_the_right_image_moved_by_the_truth_is_the_left_one(made: tuple[RenderedPair, list[Surface]]) -> None:
    """Off the edges of objects, where pixels are mixed, to half a grey level; and no better at any other disparity."""
    ndimage = pytest.importorskip("scipy.ndimage")
    pair, _ = made
    height, width = pair.disparity.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    at = x - pair.disparity
    jumps = [np.ptp(_windows(disparity), axis=(2, 3)) > 1 for disparity in (pair.disparity, pair.disparity_right)]
    compared = ~pair.occluded & ~jumps[0] & ~jumps[1][y.astype(int), np.clip(np.rint(at), 0, width - 1).astype(int)]
    assert compared.mean() > 0.5

    def differences(shift: float) -> Array:
        moved = [ndimage.map_coordinates(c.astype(np.float64), [y, at - shift], order=3) for c in pair.right]
        return np.abs(np.stack(moved) - pair.left)[:, compared]

    exact = differences(0)
    assert np.median(exact) < 0.5 and np.percentile(exact, 85) < 2
    shifts = np.linspace(-0.2, 0.2, 9)
    curve = np.polyfit(shifts, [np.square(differences(shift)).mean() for shift in shifts], 2)
    assert curve[0] > 0 and abs(-curve[1] / (2 * curve[0])) < 0.02  # the best shift, in pixels


def _windows(values: Array, size: int = 5) -> Array:
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, size // 2, mode="edge"), (size, size))


def test_the_views_are_textured_everywhere(pair: RenderedPair) -> None:
    """A matcher needs something to hold on to: few windows of 9 x 9 are flat."""
    grey = pair.left.mean(axis=0)
    assert (_windows(grey, 9).std(axis=(2, 3)) > 3).mean() > 0.97


def test_a_seed_gives_one_pair(pair: RenderedPair) -> None:
    again, other = rendered_pair(), rendered_pair(seed=1)
    for name in ("left", "right", "disparity", "disparity_right", "occluded"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pair, name))
        assert not np.array_equal(getattr(other, name), getattr(pair, name))


def test_noise_and_exposure(pair: RenderedPair) -> None:
    noisy = rendered_pair(noise=2.0)
    errors = [noisy.left.astype(np.float64) - pair.left, noisy.right.astype(np.float64) - pair.right]
    for error in errors:
        assert error.std() == pytest.approx(2, rel=0.1) and abs(error.mean()) < 0.1
    assert abs(np.corrcoef(errors[0].ravel(), errors[1].ravel())[0, 1]) < 0.02
    dim = rendered_pair(exposure=0.8)
    np.testing.assert_array_equal(dim.left, pair.left)
    assert 0.85 < dim.right.mean() / pair.right.mean() < 0.97
    for other in (noisy, dim):
        np.testing.assert_array_equal(other.disparity, pair.disparity)


def test_supersampling_softens_edges_only(pair: RenderedPair) -> None:
    rough = rendered_pair(samples=1)
    np.testing.assert_array_equal(rough.disparity, pair.disparity)
    difference = np.abs(rough.left.astype(np.float64) - pair.left).mean(axis=0)
    assert np.median(difference) < 1 and difference.max() > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 8}, "height is 8, expected a whole number, at least 16"),
        ({"width": 20.5}, "width is 20.5, expected a whole number"),
        ({"samples": 0}, "samples is 0, expected a whole number, at least 1"),
        ({"baseline": 0}, "baseline is 0, expected a finite number > 0"),
        ({"exposure": math.nan}, "exposure is nan, expected a finite number > 0"),
        ({"noise": -1}, "noise is -1, expected a finite number >= 0"),
        ({"doffs": math.inf}, "doffs is inf, expected a finite number"),
    ],
)
def test_refusals(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"rendered_pair: {message}"):
        rendered_pair(**arguments)  # type: ignore[arg-type]
