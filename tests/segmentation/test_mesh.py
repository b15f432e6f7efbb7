"""Surfaces of labels: closed, outward, in the right place and of the right size, whatever the affine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("skimage")

from fastseg.segmentation.mesh import Mesh, label_mesh  # noqa: E402

# Thick slices, turned by 20 degrees, axes to the left and to the back.
TURN = np.array([[np.cos(0.35), -np.sin(0.35), 0], [np.sin(0.35), np.cos(0.35), 0], [0, 0, 1]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN @ np.diag([-0.8, -0.9, 2.0])
OBLIQUE[:3, 3] = 40, -30, 20
MIRRORED = OBLIQUE @ np.diag([-1.0, 1, 1, 1])
AFFINES = {"identity": np.eye(4), "oblique": OBLIQUE, "mirrored": MIRRORED}


def places(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]


def ball(
    affine: np.ndarray, radius: float, shape: tuple[int, int, int] = (64, 60, 33)
) -> tuple[np.ndarray, np.ndarray]:
    """A ball in millimetres around a place off the grid, and that place."""
    shape = (64, 60, 33)
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2 + [0.3, -0.2, 0.4]) + affine[:3, 3]
    return np.linalg.norm(places(shape, affine) - centre, axis=-1) < radius, centre


def closed(mesh: Mesh) -> trimesh.Trimesh:
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert surface.is_watertight and surface.is_winding_consistent
    assert mesh.volume > 0  # or it is inside out
    assert mesh.vertices.dtype == np.float32 and mesh.faces.dtype == np.int32
    return surface


@pytest.mark.parametrize("smoothing", [0, 10])
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_ball_has_its_place_radius_volume_and_area(affine: np.ndarray, step: int, smoothing: int) -> None:
    radius = 20.0 if affine is not AFFINES["identity"] else 14.0
    mask, centre = ball(affine, radius)
    mesh = label_mesh(mask, None, affine, smoothing=smoothing, step=step)
    surface = closed(mesh)
    voxel = abs(np.linalg.det(affine[:3, :3]))
    assert mesh.volume == pytest.approx(mask.sum() * voxel, rel=0.03)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.04)
    np.testing.assert_allclose(surface.center_mass, centre, atol=0.15)
    distances = np.linalg.norm(mesh.vertices - centre, axis=1)
    assert abs(distances - radius).max() < 0.75 * step * np.linalg.norm(affine[:3, :3], axis=0).max()
    assert abs(distances.mean() - radius) < 0.25
    normals = ((surface.triangles_center - centre) * surface.face_normals).sum(1)
    assert (normals > 0).mean() > 0.999
    if smoothing:  # without it the steps between voxels add about a tenth
        assert mesh.area == pytest.approx(4 * np.pi * radius**2, rel=0.04)


def test_smoothing_takes_the_steps_away() -> None:
    mask, _ = ball(np.eye(4), 14)
    excess = []  # of the area, which the steps between voxels make larger
    for smoothing in (0, 3, 20):
        mesh = label_mesh(mask, None, np.eye(4), smoothing=smoothing)
        excess.append(mesh.area / (4 * np.pi * 14**2) - 1)
        assert mesh.volume == pytest.approx(mask.sum(), rel=0.005)
    assert excess[0] > 2 * excess[1] > 4 * excess[2] > 0


@settings(deadline=None, max_examples=40)
@given(
    labels=arrays.arrays(np.uint8, (5, 4, 6), elements=st.sampled_from([0, 0, 1, 2])),
    step=st.sampled_from([1, 1, 2, 3]),
    affine=st.sampled_from(list(AFFINES.values())),
)
def test_any_labels_give_closed_surfaces(labels: np.ndarray, step: int, affine: np.ndarray) -> None:
    labels[2, 2, 2] = 1
    labels[:3, :3, :3] = labels[:3, :3, :3] if step == 1 else 1  # something that a block keeps
    mesh = label_mesh(labels, (1, 2), affine, smoothing=0, step=step)
    closed(mesh)
    if step == 1:  # marching cubes cuts corners off, and never adds more than it cuts
        voxel = abs(np.linalg.det(affine[:3, :3]))
        assert mesh.volume < (np.count_nonzero(labels) + 0.01) * voxel * 1.5
        low, high = (np.array(np.nonzero(labels)).min(1) - 0.51, np.array(np.nonzero(labels)).max(1) + 0.51)
        indices = (mesh.vertices - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        assert (indices > low).all() and (indices < high).all()


def test_a_volume_that_is_full_is_closed_at_its_border() -> None:
    mesh = label_mesh(np.ones((6, 7, 8), bool), None, np.eye(4), smoothing=0)
    surface = closed(mesh)
    np.testing.assert_allclose(surface.bounds, [[-0.5] * 3, [5.5, 6.5, 7.5]], atol=1e-3)
    assert mesh.volume == pytest.approx(6 * 7 * 8, rel=0.05)


def test_hollows_are_not_counted() -> None:
    centre = (np.array([41, 41, 41]) - 1) / 2
    distance = np.linalg.norm(places((41, 41, 41), np.eye(4)) - centre, axis=-1)
    shell = (distance < 18) & (distance > 10)
    mesh = label_mesh(shell, None, np.eye(4))
    assert closed(mesh).body_count == 2
    assert mesh.volume == pytest.approx(shell.sum(), rel=0.02)
    assert mesh.area == pytest.approx(4 * np.pi * (18**2 + 10**2), rel=0.03)


def test_labels_alone_and_together() -> None:
    labels = np.zeros((30, 20, 20), np.int16)
    labels[5:12, 5:15, 5:15] = 1
    labels[12:20, 5:15, 5:15] = 4
    labels[22:28, 5:15, 5:15] = 2
    asked = (1, 4, (1, 4), (1, 2, 4), None)
    volumes = {members: label_mesh(labels, members, np.eye(4), smoothing=0).volume for members in asked}
    for members, voxels in ((1, 700), (4, 800), ((1, 4), 1500), ((1, 2, 4), 2100)):
        assert volumes[members] == pytest.approx(voxels, rel=0.05)
    assert volumes[None] == volumes[1, 2, 4]
    assert volumes[1, 4] > volumes[1] + volumes[4]  # no gap and no cut corners where they touch
    # A label of several that is not there is left out.
    np.testing.assert_array_equal(
        label_mesh(labels, [4, 9], np.eye(4)).vertices, label_mesh(labels, 4, np.eye(4)).vertices
    )


@pytest.mark.parametrize("ending", [".ply", ".obj", ".STL"])
def test_files(tmp_path: Path, ending: str) -> None:
    mask, _ = ball(OBLIQUE, 15)
    mesh = label_mesh(mask, None, OBLIQUE)
    path = tmp_path / f"tumour{ending}"
    mesh.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    read = trimesh.load(path)  # which merges the vertices that STL repeats
    assert read.is_watertight
    assert len(read.faces) == len(mesh.faces)
    assert read.volume == pytest.approx(mesh.volume, rel=1e-5)
    np.testing.assert_allclose(read.bounds, [mesh.vertices.min(0), mesh.vertices.max(0)], atol=1e-4)


def test_what_is_refused(tmp_path: Path) -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    with pytest.raises(ValueError, match="no voxel has a label other than 0: there are none"):
        label_mesh(labels, None, np.eye(4))
    labels[1:3, 2, 2], labels[4, 4, 4] = 2, 4
    for label, affine, options, words in (
        (3, np.eye(4), {}, "no voxel has label 3: there are labels 2, 4"),
        ((1, 3), np.eye(4), {}, "no voxel has label 1 or 3: there are labels 2, 4"),
        (0, np.eye(4), {}, "label is 0, expected labels other than 0"),
        ((), np.eye(4), {}, r"label is \(\), expected labels"),
        (2, np.eye(3), {}, r"affine is .*, expected \(4, 4\) with an inverse"),
        (2, np.diag([1, 1, 0, 1]), {}, "with an inverse"),
        (2, np.eye(4), {"smoothing": -1}, "smoothing is -1, expected a whole number >= 0"),
        (2, np.eye(4), {"smoothing": 0.5}, "smoothing is 0.5"),
        (2, np.eye(4), {"step": 0}, "step is 0, expected a whole number >= 1"),
        (2, np.eye(4), {"step": 4}, "step is 4, but no block of 4 voxels a side is half full"),
    ):
        with pytest.raises(ValueError, match=words):
            label_mesh(labels, label, affine, **options)
    for array in (labels[0], labels / 2):
        with pytest.raises(ValueError, match=r"labels is (uint8|float64) of shape .*, expected integers or bool"):
            label_mesh(array, 2, np.eye(4))
    with pytest.raises(ValueError, match=r"expected a name that ends in \.ply or \.obj or \.stl"):
        label_mesh(labels, 2, np.eye(4)).save(tmp_path / "tumour.glb")
    assert list(tmp_path.iterdir()) == []
