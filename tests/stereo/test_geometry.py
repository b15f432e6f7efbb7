"""Triangulation: the formulas in float64, what is unknown, kinds of arrays, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastseg.io import load_disparity
from fastseg.stereo import depth_from_disparity, disparity_from_depth, triangulate
from tests.support import data_file

NUMBERS = {"focal_length": 120.0, "baseline": 54.0, "doffs": 3.5}


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (5 + 40 * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)


def by_hand(d: np.ndarray, f: float, b: float, doffs: float, cx: float, cy: float) -> np.ndarray:
    """Pixel by pixel, as the formula is written."""
    out = np.empty((*d.shape, 3))
    for *image, y, x in np.ndindex(d.shape):
        z = f * b / (float(d[(*image, y, x)]) + doffs)
        out[(*image, y, x)] = ((x - cx) * z / f, (y - cy) * z / f, z)
    return out


@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (2, 3, 5, 4), (0, 3), (0, 2, 3)])
@pytest.mark.parametrize("centre", [(None, None), (2.25, -7.5)])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64]
)
def test_formula(shape: tuple[int, ...], centre: tuple[float | None, float | None], dtype: torch.dtype) -> None:
    d = noise(*shape, dtype=dtype)
    cx, cy = centre
    points = triangulate(d, **NUMBERS, cx=cx, cy=cy)
    cx = (shape[-1] - 1) / 2 if cx is None else cx
    cy = (shape[-2] - 1) / 2 if cy is None else cy
    assert points.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = by_hand(d.double().numpy(), 120.0, 54.0, 3.5, cx, cy)
    np.testing.assert_allclose(points, expected, rtol=4 * torch.finfo(points.dtype).eps, atol=0)
    depth = depth_from_disparity(d, **NUMBERS)
    np.testing.assert_array_equal(depth, points[..., 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unknown(dtype: torch.dtype) -> None:
    nan, inf = float("nan"), float("inf")
    d = torch.tensor([[nan, inf, -inf, -3.5, -4.0, -3.4, 0.0]], dtype=dtype)
    for z in (triangulate(d, **NUMBERS)[..., 2], depth_from_disparity(d, **NUMBERS)):
        assert torch.isnan(z).tolist() == [[True] * 5 + [False] * 2]
    points = triangulate(d, **NUMBERS)
    assert torch.isnan(points[0, :5]).all() and torch.isfinite(points[0, 5:]).all()
    z = torch.tensor([[nan, inf, -inf, -1.0, 0.0, 2.0]], dtype=dtype)
    assert torch.isnan(disparity_from_depth(z, **NUMBERS)).tolist() == [[True] * 5 + [False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cx", [None, 1e6])
def test_nothing_is_infinite(dtype: torch.dtype, cx: float | None) -> None:
    """Not where the quotient overflows, and not where a multiple of it does; nor are gradients there NaN."""
    smallest = torch.finfo(dtype).smallest_normal
    d = torch.logspace(np.log10(smallest), 0, 400, dtype=torch.float64).to(dtype)[None].requires_grad_()
    points = triangulate(d, focal_length=2.0, baseline=3.0, cx=cx)
    unknown = torch.isnan(points).all(-1)
    assert unknown.any() and not unknown.all() and torch.isfinite(points[~unknown]).all()
    assert (d[unknown].max() < d[~unknown].min()) and d[unknown].max() < 1e-12
    (gradient,) = torch.autograd.grad(points[~unknown].sum(), d, retain_graph=True)
    assert torch.isfinite(gradient).all()
    (gradient,) = torch.autograd.grad(points[unknown].sum(), d)
    assert (gradient == 0).all()


@given(
    d=st.floats(0.01, 1000),
    doffs=st.floats(0, 200),
    f=st.floats(10, 10_000),
    b=st.floats(0.01, 1000),
)
@settings(deadline=None)
def test_there_and_back(d: float, doffs: float, f: float, b: float) -> None:
    numbers = {"focal_length": f, "baseline": b, "doffs": doffs}
    depth = depth_from_disparity(np.array([[d]]), **numbers)
    back = disparity_from_depth(depth, **numbers)
    assert back.dtype == np.float64
    assert back[0, 0] == pytest.approx(d, abs=1e-12 * (d + doffs))


def test_points_are_seen_where_they_were() -> None:
    """By both cameras: x = f X / Z + cx on the left, and d further left for one that is B to the right."""
    d = noise(9, 11)
    x, y, z = triangulate(d, **NUMBERS, cx=4.0, cy=3.0).unbind(-1)
    columns, rows = torch.arange(11.0).double().expand(9, 11), torch.arange(9.0).double()[:, None].expand(9, 11)
    torch.testing.assert_close(120.0 * x / z + 4.0, columns)
    torch.testing.assert_close(120.0 * y / z + 3.0, rows)
    torch.testing.assert_close(120.0 * (x - 54.0) / z + 4.0 + 3.5, columns - d)


def test_a_plane_in_disparity_is_a_plane_in_space() -> None:
    rows, columns = np.mgrid[:30, :40]
    points = triangulate(60 + 0.3 * columns - 0.2 * rows, focal_length=50.0, baseline=7.0).reshape(-1, 3)
    centred = points - points.mean(0)
    assert np.linalg.svd(centred)[1][2] < 1e-12 * np.linalg.norm(centred)


@pytest.mark.parametrize("function", [triangulate, depth_from_disparity, disparity_from_depth])
def test_kinds_of_arrays(function: object) -> None:
    tensor = noise(6, 8, dtype=torch.float32)
    result = function(tensor, **NUMBERS)
    assert isinstance(result, torch.Tensor)
    for array in (tensor.numpy(), tensor.numpy().astype(">f4"), np.asfortranarray(tensor.numpy())):
        out = function(array, **NUMBERS)
        assert isinstance(out, np.ndarray) and out.dtype == np.float32
        np.testing.assert_array_equal(out, result)
    half = tensor.numpy()[::-2, ::2]
    np.testing.assert_array_equal(function(half, **NUMBERS), function(half.copy(), **NUMBERS))


@pytest.mark.parametrize("function", [triangulate, depth_from_disparity, disparity_from_depth])
def test_gradients(function: object) -> None:
    d = noise(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: function(t, **NUMBERS), d)
    assert torch.autograd.gradgradcheck(lambda t: function(t, **NUMBERS), d)
    with torch.no_grad():
        d[0, 1, 2], d[1, 0, 0], d[1, 2, 3] = float("nan"), -3.5, 0.0 if function is disparity_from_depth else -50.0
    (gradient,) = torch.autograd.grad(function(d, **NUMBERS).nansum(), d)
    unknown = torch.isnan(function(d, **NUMBERS)).reshape(2, 3, 4, -1).any(-1)
    assert unknown.sum() == 3
    assert (gradient[unknown] == 0).all() and torch.isfinite(gradient).all() and (gradient[~unknown] != 0).all()


@pytest.mark.parametrize("function", [triangulate, depth_from_disparity, disparity_from_depth])
def test_refused(function: object) -> None:
    op, name = function.__name__, "depth" if function is disparity_from_depth else "disparity"
    good = np.ones((2, 3))
    for change, words in (
        ({"focal_length": 0}, "focal_length is 0, expected a finite number > 0"),
        ({"baseline": float("nan")}, "baseline is nan, expected a finite number > 0"),
        ({"baseline": -1.0}, r"baseline is -1\.0, expected"),
        ({"doffs": float("inf")}, "doffs is inf, expected a finite number"),
    ):
        with pytest.raises(ValueError, match=f"^{op}: {words}"):
            function(good, **{**NUMBERS, **change})
    with pytest.raises(ValueError, match=rf"^{op}: {name} has shape \(3,\), expected \(\.\.\., H, W\)"):
        function(np.ones(3), **NUMBERS)
    with pytest.raises(TypeError, match=f"^{op}: {name} is torch.bool, expected real numbers"):
        function(good > 0, **NUMBERS)
    with pytest.raises(TypeError, match=f"^{op}: {name} is a list, expected a NumPy, CuPy or torch array"):
        function([[1.0]], **NUMBERS)


def test_refused_centre() -> None:
    with pytest.raises(ValueError, match=r"^triangulate: cy is nan, expected a finite number"):
        triangulate(np.ones((2, 3)), **NUMBERS, cy=float("nan"))


def test_the_motorcycle() -> None:
    """Real truth: 2.1 m to 5.0 m away, and one pixel by hand."""
    d = load_disparity(data_file("stereo/midd2014_motorcycle_q/motorcycle_disp.npz"))
    f, b, doffs, cx, cy = 994.978, 193.001, 31.086, 311.193, 254.877
    points = triangulate(d, focal_length=f, baseline=b, doffs=doffs, cx=cx, cy=cy)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(points[..., 2]), np.isnan(d))
    assert np.nanmin(points[..., 2]) == pytest.approx(2110.36, abs=0.01)
    assert np.nanmax(points[..., 2]) == pytest.approx(5016.85, abs=0.01)
    z = f * b / (float(d[250, 400]) + doffs)
    expected = ((400 - cx) * z / f, (250 - cy) * z / f, z)
    np.testing.assert_allclose(points[250, 400], expected, rtol=1e-6)
