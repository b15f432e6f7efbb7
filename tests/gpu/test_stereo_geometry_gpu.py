"""Triangulation, point clouds and surfaces of arrays on a GPU: as on the CPU, and the kind of array that was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastseg.stereo import depth_from_disparity, disparity_from_depth, point_cloud, surface_mesh, triangulate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

NUMBERS = {"focal_length": 300.0, "baseline": 40.0, "doffs": 7.0}


def disparities(height: int, width: int) -> torch.Tensor:
    """With holes."""
    generator = torch.Generator().manual_seed(0)
    d = 20 + 2 * torch.rand(height, width, generator=generator)
    return torch.where(torch.rand(d.shape, generator=generator) < 0.1, torch.nan, d)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("function", (triangulate, depth_from_disparity, disparity_from_depth))
def test_as_on_the_cpu(function, dtype):
    d = disparities(37, 53).to(dtype)
    expected = function(d, **NUMBERS)
    actual = function(d.cuda().requires_grad_(), **NUMBERS)
    assert actual.is_cuda
    torch.testing.assert_close(actual.cpu(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0, equal_nan=True)
    actual.nansum().backward()


def test_cupy():
    cupy = pytest.importorskip("cupy")
    d = disparities(37, 53)
    points = triangulate(cupy.asarray(d.numpy()), **NUMBERS)
    assert isinstance(points, cupy.ndarray)
    torch.testing.assert_close(
        torch.from_numpy(cupy.asnumpy(points)), triangulate(d, **NUMBERS), rtol=1e-6, atol=0, equal_nan=True
    )
    assert len(point_cloud(points, cupy.zeros((37, 53), cupy.uint8)).points) == torch.isfinite(d).sum()


def test_points_and_surface():
    points = triangulate(disparities(60, 80), **NUMBERS)
    image = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(60, 80, dtype=torch.bool)
    valid[30:40] = False
    for function in (point_cloud, surface_mesh):
        expected, actual = function(points, image, valid), function(points.cuda(), image, valid.cuda())
        for name in vars(expected):
            np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
