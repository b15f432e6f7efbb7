"""Surfaces: exact triangles of small scenes, planes, cuts, and the side to which triangles face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastseg.io import load_disparity, load_image
from fastseg.stereo import Mesh, RectifiedCalibration, surface_mesh, triangulate
from tests.support import data_file


def scene(disparity: np.ndarray) -> np.ndarray:
    return triangulate(disparity, focal_length=50.0, baseline=10.0)


def normals(mesh: Mesh) -> np.ndarray:
    """As long as twice the area."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    return np.cross(b - a, c - a)


def tilted(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return 60 + 0.3 * columns - 0.2 * rows


def by_loops(points: np.ndarray, valid: np.ndarray, step: float) -> set[frozenset[int]]:
    """The rules of surface_mesh, quad by quad, as sets of pixels."""
    height, width = valid.shape
    flat = points.reshape(-1, 3)
    there = (valid & np.isfinite(points).all(-1) & (points[..., 2] > 0)).ravel()

    def joined(i: int, j: int) -> bool:
        near, far = sorted((flat[i, 2], flat[j, 2]))
        return bool(there[i] and there[j] and far - near <= step * near)

    def length(i: int, j: int) -> float:
        return float(((flat[i] - flat[j]) ** 2).sum()) if joined(i, j) else np.inf

    faces = set()
    for y in range(height - 1):
        for x in range(width - 1):
            a = y * width + x
            b, c, d = a + 1, a + width, a + width + 1
            halves = ((a, c, d), (a, d, b)) if length(a, d) <= length(b, c) else ((a, c, b), (b, c, d))
            for i, j, k in halves:
                if joined(i, j) and joined(j, k) and joined(i, k):
                    faces.add(frozenset((i, j, k)))
    return faces


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), step=st.sampled_from([0.02, 0.1, 0.5, np.inf]))
def test_against_loops(seed: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 9, 2)
    points = scene(rng.choice([20.0, 20.3, 22.0, 30.0], (height, width)) + rng.uniform(0, 0.2, (height, width)))
    points[rng.random((height, width)) < 0.1] = np.nan
    valid = rng.random((height, width)) > 0.1
    mesh = surface_mesh(points, valid=valid, max_depth_step=step)
    pixel = {tuple(point): i for i, point in enumerate(points.reshape(-1, 3).astype(np.float32))}
    found = [frozenset(pixel[tuple(mesh.vertices[i])] for i in face) for face in mesh.faces]
    assert len(set(found)) == len(found)
    assert set(found) == by_loops(points, valid, step)
    assert sorted(set(mesh.faces.ravel())) == list(range(len(mesh.vertices)))


def test_a_tilted_plane() -> None:
    points = scene(tilted(20, 30))
    mesh = surface_mesh(points)
    assert len(mesh.vertices) == 600 and len(mesh.faces) == 2 * 19 * 29
    assert mesh.vertices.dtype == np.float32 and mesh.faces.dtype == np.int32 and mesh.colors is None
    np.testing.assert_array_equal(mesh.vertices, points.reshape(-1, 3).astype(np.float32))
    direction = normals(mesh)
    area = np.linalg.norm(direction, axis=1)
    across, along = points[0, -1] - points[0, 0], points[-1, 0] - points[0, 0]
    plane = np.cross(along, across) / np.linalg.norm(np.cross(along, across))
    np.testing.assert_allclose(direction / area[:, None], np.broadcast_to(plane, direction.shape), atol=1e-3)
    corners = points[0, 0], points[0, -1], points[-1, -1], points[-1, 0]
    whole = sum(np.linalg.norm(np.cross(p - corners[0], q - corners[0])) for p, q in (corners[1:3], corners[2:4]))
    assert area.sum() == pytest.approx(whole, rel=1e-4)


def test_every_triangle_faces_the_camera() -> None:
    disparity = np.random.default_rng(0).uniform(20, 40, (15, 17))
    mesh = surface_mesh(scene(disparity), max_depth_step=np.inf)
    assert len(mesh.faces) == 2 * 14 * 16
    middles = mesh.vertices[mesh.faces].mean(1)
    assert ((normals(mesh) * -middles).sum(1) > 0).all()


def test_it_is_cut_at_a_step() -> None:
    disparity = np.full((10, 12), 20.0)
    disparity[:, 6:] = 22.0  # depth 25 and 22.7: a step of a tenth
    points = scene(disparity)
    whole = surface_mesh(points, max_depth_step=0.11)
    assert len(whole.faces) == 2 * 9 * 11
    cut = surface_mesh(points, max_depth_step=0.09)
    assert len(cut.faces) == 2 * 9 * 10 and len(cut.vertices) == 120
    depths = cut.vertices[cut.faces][..., 2]
    assert (depths.max(1) == depths.min(1)).all()
    assert len(surface_mesh(points).faces) == len(cut.faces)


def test_the_step_counts_along_diagonals() -> None:
    """Three corners each within the step of their neighbours, the far corner not of the near one."""
    z = np.array([[10.0, 10.4], [10.4, 10.8]])
    points = np.dstack((*np.meshgrid([0.0, 0.1], [0.0, 0.1]), z))
    assert len(surface_mesh(points, max_depth_step=0.05).faces) == 2  # divided along the other diagonal
    z[0, 1] = z[1, 0] = np.nan
    assert len(surface_mesh(np.dstack((points[..., :2], z))).faces) == 0


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("how", ["not valid", "NaN", "behind the camera", "step"])
def test_three_corners_make_a_triangle(corner: tuple[int, int], how: str) -> None:
    points, valid = scene(np.full((2, 2), 20.0)), np.ones((2, 2), bool)
    if how == "not valid":
        valid[corner] = False
    elif how == "step":
        points[corner] *= 1.2
    else:
        points[corner] = np.nan if how == "NaN" else -points[corner]
    mesh = surface_mesh(points, np.arange(12, dtype=np.uint8).reshape(2, 2, 3), valid)
    others = np.ones((2, 2), bool)
    others[corner] = False
    np.testing.assert_array_equal(mesh.vertices, points[others].astype(np.float32))
    np.testing.assert_array_equal(mesh.colors, np.arange(12).reshape(2, 2, 3)[others])
    assert sorted(mesh.faces[0]) == [0, 1, 2] and len(mesh.faces) == 1
    assert normals(mesh)[0, 2] < 0


@pytest.mark.parametrize("along", ["falling", "rising"])
def test_the_shorter_diagonal(along: str) -> None:
    """Both are equally long until the last corner moves towards the first, or away from it."""
    z = np.array([[10.0, 10.3], [10.3, 10.0]])
    points = np.dstack((*np.meshgrid([0.0, 0.1], [0.0, 0.1]), z))
    points[1, 1] += [0.01, 0.01, 0] if along == "rising" else [-0.01, -0.01, 0]
    mesh = surface_mesh(points)
    shared = set(mesh.faces[0]) & set(mesh.faces[1])
    assert shared == ({1, 2} if along == "rising" else {0, 3})


def test_max_depth() -> None:
    points = scene(tilted(10, 10))
    limit = float(np.median(points[..., 2]))
    mesh = surface_mesh(points, max_depth=limit)
    assert 0 < len(mesh.vertices) < 100 and mesh.vertices[:, 2].max() <= limit
    expected = by_loops(points, points[..., 2] <= limit, 0.05)
    assert len(mesh.faces) == len(expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (0, 4), (5, 6)])
def test_no_triangle(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    mesh = surface_mesh(scene(np.full(shape, 20.0)), image, np.zeros(shape, bool))
    assert mesh.vertices.shape == mesh.faces.shape == mesh.colors.shape == (0, 3)


def test_kinds_of_arrays() -> None:
    points, image = scene(tilted(6, 7)), np.random.default_rng(0).random((6, 7, 3), np.float32)
    expected = surface_mesh(points, image)
    tensors = surface_mesh(
        torch.from_numpy(points).requires_grad_(), torch.from_numpy(image).movedim(-1, 0), torch.ones(6, 7).bool()
    )
    for name in ("vertices", "faces", "colors"):
        assert isinstance(getattr(tensors, name), np.ndarray)
        np.testing.assert_array_equal(getattr(tensors, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": np.ones((4, 3))}, r"points has shape \(4, 3\), expected \(H, W, 3\)"),
        ({"points": np.ones((2, 4, 5, 3))}, r"points has shape \(2, 4, 5, 3\), expected \(H, W, 3\)"),
        ({"max_depth_step": 0}, "max_depth_step is 0, expected a number > 0"),
        ({"max_depth_step": float("nan")}, "max_depth_step is nan, expected a number > 0"),
        ({"max_depth": -1}, "max_depth is -1, expected a number > 0"),
        ({"valid": np.ones((2, 2))}, "valid is torch.float64"),
    ],
)
def test_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=f"^surface_mesh: {words}"):
        surface_mesh(**{"points": np.ones((2, 2, 3)), **change})


def test_the_motorcycle() -> None:
    d = load_disparity(data_file("stereo/midd2014_motorcycle_q/motorcycle_disp.npz"))
    image = load_image(data_file("stereo/midd2014_motorcycle_q/motorcycle_left.png"))
    points = RectifiedCalibration(994.978, 193.001, 31.086, 311.193, 254.877).triangulate(d)
    mesh = surface_mesh(points, image)
    corners = mesh.vertices[mesh.faces]
    assert len(mesh.vertices) > 0.99 * np.isfinite(d).sum()
    steps = corners[..., 2].max(1) / corners[..., 2].min(1) - 1
    assert steps.max() <= 0.05 + 1e-6
    assert len(surface_mesh(points, max_depth_step=np.inf).faces) - len(mesh.faces) > 5000
    facing = (normals(mesh) * -corners.mean(1)).sum(1)
    assert (facing > 0).all()
