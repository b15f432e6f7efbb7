"""PLY files, read again by a reader that is not ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

trimesh = pytest.importorskip("trimesh")

from fastseg.io import FileError, save_mesh, save_point_cloud  # noqa: E402
from fastseg.stereo import point_cloud, surface_mesh, triangulate  # noqa: E402

RNG = np.random.default_rng(0)
POINTS = (RNG.standard_normal((50, 3)) * 1000).astype(np.float32)
COLORS = RNG.integers(0, 256, (50, 3), dtype=np.uint8)
FACES = np.stack([RNG.permutation(50)[:3] for _ in range(70)]).astype(np.int32)


@pytest.mark.parametrize("colors", [COLORS, None], ids=["colours", "none"])
@pytest.mark.parametrize("y_up", [False, True])
def test_round_trip(tmp_path: Path, colors: np.ndarray | None, y_up: bool) -> None:
    expected = POINTS * [1, -1, -1] if y_up else POINTS
    save_point_cloud(tmp_path / "cloud.ply", POINTS, colors, y_up=y_up)
    save_mesh(tmp_path / "mesh.ply", POINTS, FACES, colors, y_up=y_up)
    cloud = trimesh.load(tmp_path / "cloud.ply", process=False)
    mesh = trimesh.load(tmp_path / "mesh.ply", process=False)
    assert isinstance(cloud, trimesh.PointCloud) and isinstance(mesh, trimesh.Trimesh)
    np.testing.assert_array_equal(cloud.vertices, expected)
    np.testing.assert_array_equal(mesh.vertices, expected)
    np.testing.assert_array_equal(mesh.faces, FACES)
    if colors is not None:
        np.testing.assert_array_equal(cloud.colors[:, :3], colors)
        np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], colors)
    for name in ("cloud", "mesh"):
        header = (tmp_path / f"{name}.ply").read_bytes().split(b"end_header")[0].decode()
        assert "format binary_little_endian 1.0" in header
        assert ("property uchar red" in header) == (colors is not None)
        assert "property float x" in header
    assert {path.name for path in tmp_path.iterdir()} == {"cloud.ply", "mesh.ply"}


@pytest.mark.parametrize("ending", [".obj", ".stl", ".OBJ"])
@pytest.mark.parametrize("colors", [COLORS, None], ids=["colours", "none"])
def test_meshes_as_obj_and_stl(tmp_path: Path, ending: str, colors: np.ndarray | None) -> None:
    path = tmp_path / f"mesh{ending}"
    if ending == ".stl" and colors is not None:
        with pytest.raises(FileError, match=r"STL holds no colors, expected None, or \.ply or \.obj"):
            save_mesh(path, POINTS, FACES, colors)
        assert not list(tmp_path.iterdir())
        return
    save_mesh(path, POINTS, FACES, colors)
    read = trimesh.load(path, process=False)
    np.testing.assert_allclose(read.triangles, POINTS[FACES], rtol=1e-6)
    if colors is not None:
        np.testing.assert_array_equal(read.visual.vertex_colors[:, :3], colors)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with pytest.raises(FileError, match=r"expected a name that ends in \.ply$"):
        save_point_cloud(path, POINTS)


def test_a_scene_on_the_way_to_a_file(tmp_path: Path) -> None:
    disparity = np.linspace(20, 30, 30 * 40, dtype=np.float32).reshape(30, 40)
    disparity[3:6, 4:9] = np.nan
    points = triangulate(disparity, focal_length=50.0, baseline=100.0)
    image = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    cloud, mesh = point_cloud(points, image), surface_mesh(points, image)
    cloud.save(tmp_path / "cloud.ply")
    mesh.save(tmp_path / "mesh.ply", y_up=True)
    read = trimesh.load(tmp_path / "cloud.ply")
    np.testing.assert_array_equal(read.vertices, points[np.isfinite(disparity)])
    np.testing.assert_array_equal(read.colors[:, :3], image[np.isfinite(disparity)])
    read = trimesh.load(tmp_path / "mesh.ply", process=False)
    assert len(read.faces) == len(mesh.faces) > 2000
    assert (read.vertices[:, 2] < 0).all()
    towards_camera = -read.triangles_center  # which is at the origin in either system
    assert ((read.face_normals * towards_camera).sum(1) > 0).all()


def test_refused_writes_leave_nothing(tmp_path: Path) -> None:
    bad = POINTS.copy()
    bad[3, 1] = np.nan
    for arguments, words in (
        (("a.xyz", POINTS), r"expected a name that ends in \.ply"),
        (("a.ply", POINTS[:0]), r"points of shape \(0, 3\), expected \(N, 3\) with at least one point"),
        (("a.ply", POINTS.ravel()), r"points of shape \(150,\)"),
        (("a.ply", bad), "1 points are not finite"),
        (("a.ply", POINTS, COLORS[:5]), r"colors of uint8 and shape \(5, 3\), expected uint8 of \(50, 3\)"),
        (("a.ply", POINTS, COLORS / 255), "colors of float64"),
        (("none/a.ply", POINTS), r"cannot be written \(No such file or directory\)"),
    ):
        name, *rest = arguments
        with pytest.raises(FileError, match=words) as caught:
            save_point_cloud(tmp_path / name, *rest)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        with pytest.raises(FileError, match=words):
            save_mesh(tmp_path / name, rest[0], FACES, *rest[1:])
    for faces, words in (
        (FACES[:0], r"faces of int32 and shape \(0, 3\), expected integers of \(M, 3\), M > 0"),
        (FACES[:, :2], "faces of int32 and shape"),
        (FACES.astype(float), "faces of float64"),
        (FACES + 10, "faces name 1. to 5., expected 0 to 49"),
        (FACES - 1, "faces name -1 to .., expected 0 to 49"),
    ):
        with pytest.raises(FileError, match=words):
            save_mesh(tmp_path / "a.ply", POINTS, faces)
    assert list(tmp_path.iterdir()) == []
