"""fast_global_smoother on CPU: against float64 and OpenCV, every dtype and shape, and the contract of the op."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.backends import cpu_fast_global_smoother as cpu
from fastseg.ops import fast_global_smoother
from tests.support import (
    DTYPES,
    IMAGE_LAYOUTS,
    assert_same_bits,
    assert_within_budget,
    data_file,
    for_thread_counts,
    pairwise,
    picture,
    poison,
    rerun_with_capability,
)

OP = torch.ops.fastseg.fast_global_smoother.default
SETTINGS = {"lambda_": 30.0, "sigma": 0.2}
ODD = (37, 53)
#: A single pixel, single lines, less than a vector, several bundles of lines either way.
SIZES = ((1, 1), (1, 7), (7, 1), (2, 2), (1, 300), (300, 1), (2, 70), (70, 3), (33, 65), (130, 97))


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_output")


def check(src: Tensor, guide: Tensor, **parameters: float) -> None:
    parameters = {**SETTINGS, **parameters}
    actual = fast_global_smoother(src, guide, **parameters)
    assert actual.dtype == src.dtype and actual.shape == src.shape and actual.is_contiguous()
    if src.dtype == torch.uint8:
        exact = reference.fast_global_smoother(src.double(), guide, **parameters)
        assert (actual.double() - exact).abs().max() <= 0.5 + 1e-3  # rounded to nearest
        return
    exact = reference.fast_global_smoother(src.double(), guide_as_read(guide, src), **parameters)
    assert_within_budget(actual, exact, reference.fast_global_smoother(src, guide, **parameters))


def guide_as_read(guide: Tensor, src: Tensor) -> Tensor:
    """The kernel reads the guide in the type that it computes in."""
    return guide.to(torch.promote_types(src.dtype, torch.float32))


def test_reference_solves_the_equations():
    """(I + lambda L) u = f for each line, by dense algebra."""
    src, guide = picture(4, 6, dtype=torch.float64), picture(3, 4, 6, dtype=torch.float64, seed=1)

    def solved(lines: Tensor, colours: Tensor, strength: float) -> Tensor:
        results = []
        for line, colour in zip(lines, colours, strict=True):  # colour: (pixels, 3)
            w = torch.exp(-(colour[1:] - colour[:-1]).square().sum(1).sqrt() / 0.2)
            difference = torch.diff(torch.eye(len(line), dtype=torch.float64), dim=0)
            matrix = torch.eye(len(line), dtype=torch.float64) + strength * difference.T @ torch.diag(w) @ difference
            results.append(torch.linalg.solve(matrix, line))
        return torch.stack(results)

    expected = src
    for strength in (30.0, 7.5):
        expected = solved(expected, guide.permute(1, 2, 0), strength)
        expected = solved(expected.T, guide.permute(2, 1, 0), strength).T
    actual = reference.fast_global_smoother(src, guide, iterations=2, **SETTINGS)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "dtype", "guide_channels"), pairwise(SIZES, (*DTYPES, torch.uint8), (1, 3)), ids=str)
def test_against_float64(size, dtype, guide_channels):
    check(picture(2, *size, dtype=dtype), picture(guide_channels, *size, dtype=torch.float64, seed=1))


@pytest.mark.parametrize("src_dtype", (*DTYPES, torch.uint8), ids=str)
@pytest.mark.parametrize("guide_dtype", (*DTYPES, torch.uint8), ids=str)
def test_every_dtype_of_the_guide(src_dtype, guide_dtype):
    sigma = 40.0 if guide_dtype == torch.uint8 else 0.2
    check(picture(*ODD, dtype=src_dtype), picture(3, *ODD, dtype=guide_dtype, seed=1), sigma=sigma)


@pytest.mark.parametrize("lambda_", (0.0, 1e-3, 1.0, 1e4, 1e8, 1e20))
@pytest.mark.parametrize("sigma", (1e-20, 1e-2, 1e20))
def test_strong_and_weak(lambda_, sigma):
    check(picture(*ODD), picture(*ODD, seed=1), lambda_=lambda_, sigma=sigma)


@pytest.mark.parametrize(("iterations", "attenuation"), ((1, 0.25), (2, 1.0), (4, 0.0), (3, 2.0)))
def test_iterations(iterations, attenuation):
    check(picture(*ODD), picture(*ODD, seed=1), iterations=iterations, attenuation=attenuation)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    guide_channels=st.sampled_from((1, 3)),
    dtype=st.sampled_from((*DTYPES, torch.uint8)),
    lambda_=st.floats(0, 1e5),
    sigma=st.floats(1e-3, 10),
    iterations=st.integers(1, 4),
)
def test_any_shape(leading, height, width, guide_channels, dtype, lambda_, sigma, iterations):
    src, guide = picture(*leading, height, width, dtype=dtype), picture(guide_channels, height, width, seed=1)
    check(src, guide, lambda_=lambda_, sigma=sigma, iterations=iterations)


def test_guides_of_a_batch():
    src, guide = picture(3, 2, 30, 40), picture(3, 3, 30, 40, seed=1)
    check(src, guide)
    together = fast_global_smoother(src, guide, **SETTINGS)
    for image, colours, result in zip(src, guide, together, strict=True):
        assert torch.equal(fast_global_smoother(image, colours, **SETTINGS), result)


def test_more_channels_than_are_in_flight_at_a_time():
    check(picture(5, 1030, 1040), picture(1030, 1040, seed=1), iterations=1)


@pytest.mark.parametrize("guide_shape", (ODD, (1, *ODD)))
def test_grey_guides(guide_shape):
    src, guide = picture(2, 3, *ODD), picture(*ODD, seed=1)
    expected = fast_global_smoother(src, guide.expand(2, 1, *ODD), **SETTINGS)
    assert torch.equal(fast_global_smoother(src, guide.view(guide_shape), **SETTINGS), expected)


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
def test_layouts(layout):
    src, guide = (IMAGE_LAYOUTS[layout](picture(2, 3, *ODD, seed=seed)) for seed in (0, 1))
    check(src, guide)


def test_stays_between_the_extremes_and_keeps_constants():
    src, guide = picture(100, 120), picture(3, 100, 120, seed=1)
    smooth = fast_global_smoother(src, guide, lambda_=1e6, sigma=10.0)
    assert src.min() <= smooth.min() and smooth.max() <= src.max()
    constant = torch.full((100, 120), 0.1)
    assert torch.equal(fast_global_smoother(constant, guide, **SETTINGS), constant)


@pytest.mark.parametrize("batch", (1, 5))
def test_same_bits_for_every_number_of_threads(batch):
    src, guide = picture(batch, 2, 150, 170), picture(batch, 3, 150, 170, seed=1)
    assert_same_bits(for_thread_counts((1, 2, 3, 7), lambda: fast_global_smoother(src, guide, **SETTINGS)))


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_against_float64(dtype):
    src, guide, grad = picture(2, 40, 50, dtype=dtype), picture(3, 40, 50, seed=1), picture(2, 40, 50, seed=2).to(dtype)

    def gradient(function, t: Tensor) -> Tensor:
        leaf = t.clone().requires_grad_()
        return torch.autograd.grad(function(leaf, guide, **SETTINGS), leaf, grad.to(t.dtype))[0]

    exact = gradient(reference.fast_global_smoother, src.double())
    peer = gradient(reference.fast_global_smoother, src)
    assert_within_budget(gradient(fast_global_smoother, src), exact, peer)


@pytest.mark.parametrize("iterations", (1, 3))
def test_gradcheck_once_and_twice(iterations):
    src = picture(2, 2, 4, 5, dtype=torch.float64).requires_grad_()
    guide = picture(2, 3, 4, 5, seed=1)

    def function(t: Tensor) -> Tensor:
        return fast_global_smoother(t, guide, iterations=iterations, **SETTINGS)

    assert torch.autograd.gradcheck(function, src)
    assert torch.autograd.gradgradcheck(function, src)
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(function, src)


def test_gradient_that_is_expanded_or_not_finite():
    src = picture(20, 30).requires_grad_()
    smooth = fast_global_smoother(src, picture(20, 30, seed=1), **SETTINGS)
    (ones,) = torch.autograd.grad(smooth.sum(), src, retain_graph=True)
    (dense,) = torch.autograd.grad(smooth, src, torch.ones(20, 30), retain_graph=True)
    assert torch.equal(ones, dense)
    (overflown,) = torch.autograd.grad(smooth, src, torch.full((20, 30), float("inf")))  # as loss scaling may give
    assert not overflown.isfinite().any()


def test_result_may_be_changed_in_place():
    src = picture(20, 30).requires_grad_()
    fast_global_smoother(src, src.detach(), **SETTINGS).mul_(2).sum().backward()
    assert src.grad is not None


# ---- the contract of the op ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ("contiguous", "transposed"))
@pytest.mark.parametrize("adjoint", (False, True))
def test_opcheck(layout, adjoint):
    src, guide = picture(2, 2, 5, 6), picture(2, 3, 5, 6, seed=1)
    if layout == "transposed":
        src, guide = src.mT, guide.mT
    torch.library.opcheck(OP, (src, guide, 3.0, 0.2, 2, 0.25, adjoint))


def test_compile_without_break_or_recompile():
    torch._dynamo.reset()
    function = torch.compile(lambda s, g: fast_global_smoother(s * 2, g, **SETTINGS) + 1, fullgraph=True, dynamic=True)
    for size, stance in ((8, "default"), (10, "fail_on_recompile")):
        src, guide = picture(2, size, size + 1).requires_grad_(), picture(3, size, size + 1, seed=1)
        with torch.compiler.set_stance(stance):
            smooth = function(src, guide)
        expected = fast_global_smoother(src * 2, guide, **SETTINGS) + 1
        torch.testing.assert_close(smooth, expected)
        grad = torch.randn_like(smooth)
        for a, b in zip(torch.autograd.grad(smooth, src, grad), torch.autograd.grad(expected, src, grad), strict=True):
            torch.testing.assert_close(a, b)


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("fast_global_smoother", picture(*ODD))


def test_forced_reference():
    src, guide = picture(2, *ODD), picture(3, *ODD, seed=1)
    with fastseg.backend("reference"):
        assert torch.equal(
            fast_global_smoother(src, guide, **SETTINGS), reference.fast_global_smoother(src, guide, **SETTINGS)
        )


def test_no_images():
    assert fast_global_smoother(torch.zeros(0, 4, 5), torch.zeros(4, 5), **SETTINGS).shape == (0, 4, 5)
    assert fast_global_smoother(torch.zeros(0, 2, 4, 5), torch.zeros(0, 3, 4, 5), **SETTINGS).shape == (0, 2, 4, 5)


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.float16, np.uint8))
def test_numpy(dtype):
    src, guide = (picture(*ODD, seed=seed).numpy() for seed in (0, 1))
    src = (200 * src).astype(dtype)
    smooth = fast_global_smoother(src, guide, **SETTINGS)
    assert isinstance(smooth, np.ndarray) and smooth.dtype == dtype
    expected = fast_global_smoother(torch.from_numpy(src), torch.from_numpy(guide), **SETTINGS)
    assert np.array_equal(smooth, expected.numpy())
    assert np.array_equal(fast_global_smoother(src[:, ::-1], guide[:, ::-1].copy(), **SETTINGS).shape, src.shape)


def message_cases():
    image, guide = torch.rand(4, 5), torch.rand(3, 4, 5)
    bad = torch.rand(4, 5)
    bad[2, 3] = float("nan")
    return (
        (TypeError, {"src": [[1.0]]}, "src is a list, expected a NumPy, CuPy or torch array"),
        (TypeError, {"src": image.long()}, "src is torch.int64, expected float32"),
        (TypeError, {"guide": guide.to(torch.complex64)}, "guide is torch.complex64, expected float32"),
        (ValueError, {"src": torch.rand(5)}, r"src has shape \(5,\), expected \(..., H, W\)"),
        (ValueError, {"src": torch.rand(0, 5)}, r"src has shape \(0, 5\), expected .* at least one pixel"),
        (ValueError, {"guide": torch.rand(4, 5, 3)}, r"guide has shape \(4, 5, 3\), expected .* channels before"),
        (ValueError, {"guide": torch.rand(5)}, r"guide has shape \(5,\)"),
        (
            ValueError,
            {"guide": torch.rand(3, 4, 6)},
            r"guide has shape .*, expected src's image size \(4, 5\)",
        ),
        (ValueError, {"guide": torch.rand(2, 3, 4, 5)}, r"src has shape \(4, 5\), expected \(2, C, H, W\)"),
        (ValueError, {"guide": guide.to("meta")}, "guide is on meta, expected src's device cpu"),
        (ValueError, {"guide": guide.clone().requires_grad_()}, "guide requires grad"),
        (ValueError, {"src": bad}, r"src has 1 values that are NaN or infinite, the first at \(2, 3\)"),
        (ValueError, {"guide": bad / 0}, "guide has 20 values that are NaN or infinite"),
        (ValueError, {"lambda_": -1.0}, "lambda_ is -1.0, expected a number from 0"),
        (ValueError, {"lambda_": float("nan")}, "lambda_ is nan"),
        (ValueError, {"sigma": 0.0}, "sigma is 0.0, expected a number > 0"),
        (ValueError, {"iterations": 0}, "iterations is 0, expected a whole number >= 1"),
        (ValueError, {"iterations": 1.5}, "iterations is 1.5, expected a whole number >= 1"),
        (ValueError, {"attenuation": -0.1}, "attenuation is -0.1, expected a finite number >= 0"),
        (ValueError, {"attenuation": 1e30}, "attenuation is 1e.30, expected one with which lambda stays below"),
    )


@pytest.mark.parametrize(("error", "change", "message"), message_cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_errors(error, change, message):
    arguments = {"src": torch.rand(4, 5), "guide": torch.rand(3, 4, 5), **SETTINGS}
    with pytest.raises(error, match=f"^fast_global_smoother: {message}"):
        fast_global_smoother(**{**arguments, **change})


# ---- OpenCV ----------------------------------------------------------------------------------------------------------


def in_opencv(src: np.ndarray, guide: np.ndarray, lambda_: float, sigma: float) -> np.ndarray:
    ximgproc = pytest.importorskip("cv2.ximgproc")
    colours = guide if guide.ndim == 2 else np.ascontiguousarray(guide.transpose(1, 2, 0))
    return ximgproc.fastGlobalSmootherFilter(colours, src, lambda_, sigma, lambda_attenuation=0.25, num_iter=3)


@pytest.mark.parametrize("guide_channels", (1, 3))
@pytest.mark.parametrize(("lambda_", "sigma"), ((100.0, 10.0), (8000.0, 1.5), (1.0, 50.0)))
def test_same_as_opencv(guide_channels, lambda_, sigma):
    guide = picture(guide_channels, 90, 110, dtype=torch.uint8, seed=1).numpy()
    guide = guide[0] if guide_channels == 1 else guide
    src = picture(90, 110, dtype=torch.uint8).numpy()
    ours = fast_global_smoother(src, guide, lambda_=lambda_, sigma=sigma)
    theirs = in_opencv(src, guide, lambda_, sigma)
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # two numbers on either side of a half
    floats = src.astype(np.float32)
    ours = fast_global_smoother(floats, guide, lambda_=lambda_, sigma=sigma)
    exact = fast_global_smoother(floats.astype(np.float64), guide, lambda_=lambda_, sigma=sigma)
    theirs = in_opencv(floats, guide, lambda_, sigma)
    assert np.abs(ours - exact).max() <= 255e-6  # of 255
    assert np.abs(ours - theirs).max() <= np.abs(theirs - exact).max() + 255e-6


def test_same_as_opencv_on_a_real_disparity_map():
    cv2 = pytest.importorskip("cv2")
    guide = cv2.imread(str(data_file("stereo/middv2/teddy/imL.png"))).transpose(2, 0, 1)
    disparity = cv2.imread(str(data_file("stereo/middv2/teddy/groundtruth.png")), cv2.IMREAD_GRAYSCALE)
    ours = fast_global_smoother(disparity, np.ascontiguousarray(guide), lambda_=200.0, sigma=8.0)
    theirs = in_opencv(disparity, np.ascontiguousarray(guide), 200.0, 8.0)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(
        __file__, capability, "float64 or dtype or strong or shape or layouts or constants or gradcheck or opencv"
    )
