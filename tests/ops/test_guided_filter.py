"""guided_filter on CPU: against float64, OpenCV and kornia, every dtype, border and shape, and the op's contract."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.backends import cpu_guided_filter as cpu
from fastseg.ops import guided_filter
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

OP = torch.ops.fastseg.guided_filter.default
SETTINGS = {"radius": 4, "eps": 1e-3}
BORDERS = ("truncate", "reflect", "reflect_101")
ODD = (37, 53)
#: Images that are filtered one at a time, and so many that they are filtered side by side, in two groups.
FEW, MANY = 2, 19
#: A single pixel, single lines, less than a vector, several bands of rows.
SIZES = ((1, 1), (1, 7), (7, 1), (2, 2), (1, 150), (150, 1), (2, 70), (70, 3), (33, 65), (170, 40))


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_output")


def check(guide: Tensor, src: Tensor, **parameters: object) -> None:
    parameters = {**SETTINGS, **parameters}
    actual = guided_filter(guide, src, **parameters)
    assert actual.dtype == src.dtype and actual.shape == src.shape and actual.is_contiguous()
    read = guide.to(torch.promote_types(src.dtype, torch.float32))  # as the kernel reads it
    exact = reference.guided_filter(read, src.double(), **parameters)
    if src.dtype == torch.uint8:
        assert (actual.double() - exact.clamp(0, 255)).abs().max() <= 0.5 + 1e-3  # rounded to nearest
        return
    peer = reference.guided_filter(guide, src, **parameters)
    assert_within_budget(actual, exact, peer, str(parameters), terms=terms_of(guide, src, parameters["eps"]))


def terms_of(guide: Tensor, src: Tensor, eps: float) -> float:
    """In float64 the truth is float64 too, so that only roundings can be counted: of covariances, divided by eps, whose
    running sums round once a row and once a column."""
    if src.dtype != torch.float64:
        return 0.0
    colours = guide.double() - guide.double().mean((-2, -1), keepdim=True)
    steps = sum(src.shape[-2:]) ** 0.5
    return float(steps * colours.abs().max() ** 2 * src.abs().max() / eps)


def brute_force(guide: Tensor, src: Tensor, radius: int, eps: float) -> Tensor:
    """Border "truncate" by the definition, window by window; guide (G, H, W), src (H, W), float64."""
    height, width = src.shape

    def window(t: Tensor, y: int, x: int) -> Tensor:
        return t[..., max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1].flatten(-2)

    slopes, offsets = torch.empty_like(guide), torch.empty_like(src)
    for y, x in itertools.product(range(height), range(width)):
        colours, p = window(guide, y, x), window(src, y, x)
        covariance = torch.cov(colours, correction=0).reshape(len(colours), len(colours))
        both = (colours * p).mean(1) - colours.mean(1) * p.mean()
        a = torch.linalg.solve(covariance + eps * torch.eye(len(colours), dtype=torch.float64), both)
        slopes[:, y, x], offsets[y, x] = a, p.mean() - a @ colours.mean(1)
    result = torch.empty_like(src)
    for y, x in itertools.product(range(height), range(width)):
        result[y, x] = window(slopes, y, x).mean(1) @ guide[:, y, x] + window(offsets, y, x).mean()
    return result


@pytest.mark.parametrize("guide_channels", (1, 3))
@pytest.mark.parametrize("radius", (0, 1, 3, 20))
def test_reference_is_the_definition(radius, guide_channels):
    guide, src = picture(guide_channels, 9, 12, dtype=torch.float64), picture(9, 12, dtype=torch.float64, seed=1)
    expected = brute_force(guide, src, radius, 1e-3)
    torch.testing.assert_close(reference.guided_filter(guide, src, radius=radius, eps=1e-3), expected)
    for channels in (1, MANY):
        copies = src.expand(channels, 9, 12)
        torch.testing.assert_close(guided_filter(guide, copies, radius=radius, eps=1e-3), expected.expand_as(copies))


# ---- peers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide_channels", (1, 3))
@pytest.mark.parametrize("channels", (1, MANY))
def test_agrees_with_opencv(guide_channels, channels):
    cv2 = pytest.importorskip("cv2")
    guide, src = picture(guide_channels, 60, 80), picture(channels, 60, 80, seed=1)
    # At eps 1e-2 OpenCV's colour filter follows the definition; below it loses it to rounding.
    off = 2e-6 if guide_channels == 3 else 3e-5  # from float64, OpenCV itself: its grey filter does not centre
    smooth = guided_filter(guide, src, radius=5, eps=1e-2, border="reflect")
    for image, result in zip(src, smooth, strict=True):
        theirs = cv2.ximgproc.guidedFilter(guide.permute(1, 2, 0).contiguous().numpy(), image.numpy(), 5, 1e-2)
        np.testing.assert_allclose(result.numpy(), theirs, rtol=0, atol=off)


@pytest.mark.parametrize("guide_channels", (1, 3))
def test_agrees_with_kornia(guide_channels):
    kornia = pytest.importorskip("kornia")
    guide, src = picture(2, guide_channels, 60, 80), picture(2, 5, 60, 80, seed=1)
    smooth = guided_filter(guide.double(), src.double(), radius=5, eps=1e-3, border="reflect_101")
    theirs = kornia.filters.guided_blur(guide.double(), src.double(), 11, 1e-3)
    torch.testing.assert_close(smooth, theirs, rtol=1e-9, atol=1e-10)


# ---- against float64 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "dtype", "channels", "guide_channels"),
    pairwise(SIZES, (*DTYPES, torch.uint8), (FEW, MANY), (1, 3)),
    ids=str,
)
def test_against_float64(size, dtype, channels, guide_channels):
    eps = 65.0 if dtype == torch.uint8 else 1e-3  # the guide's units: its bytes are not scaled
    guide = picture(guide_channels, *size, dtype=torch.uint8 if dtype == torch.uint8 else torch.float64, seed=1)
    check(guide, picture(channels, *size, dtype=dtype), eps=eps)


@pytest.mark.parametrize(
    ("dtype", "radius", "channels", "border"),
    pairwise((torch.float32, torch.float64), (0, 1, 2, 9, 17, 36, 53, 130), (FEW, MANY), BORDERS),
    ids=str,
)
def test_radii_and_borders(dtype, radius, channels, border):
    check(picture(3, *ODD, seed=1), picture(channels, *ODD, dtype=dtype), radius=radius, border=border)


@pytest.mark.parametrize(("radius", "eps", "channels"), pairwise((2, 9), (1e-6, 1e-4, 1.0, 1e6), (FEW, MANY)), ids=str)
def test_eps(radius, eps, channels):
    check(picture(3, 60, 70, seed=1), picture(channels, 60, 70), radius=radius, eps=eps)


@pytest.mark.parametrize("channels", (FEW, MANY))
@pytest.mark.parametrize("scale", (1e-30, 1e-3, 1e4, 1e30))
def test_any_range_of_src_and_guide(scale, channels):
    guide, src = picture(3, *ODD, seed=1), picture(channels, *ODD)
    check(guide, src * scale)
    check(guide * 1000.0 + 1e4, src - 0.5, eps=1e3)


@pytest.mark.parametrize("src_dtype", (*DTYPES, torch.uint8), ids=str)
@pytest.mark.parametrize("guide_dtype", (*DTYPES, torch.uint8), ids=str)
@pytest.mark.parametrize("channels", (FEW, MANY))
def test_every_dtype_of_the_guide(channels, guide_dtype, src_dtype):
    eps = 65.0 if guide_dtype == torch.uint8 else 1e-3
    check(picture(3, *ODD, dtype=guide_dtype, seed=1), picture(channels, *ODD, dtype=src_dtype), eps=eps)


@pytest.mark.parametrize(
    ("dtype", "channels", "subsample"), pairwise((*DTYPES, torch.uint8), (FEW, MANY), (2, 3, 4, 50)), ids=str
)
def test_fast_guided_filter(dtype, channels, subsample):
    check(picture(3, *ODD, seed=1), picture(channels, *ODD, dtype=dtype), radius=6, subsample=subsample)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    channels=st.integers(1, 40),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    guide_channels=st.sampled_from((1, 3)),
    dtype=st.sampled_from((*DTYPES, torch.uint8)),
    radius=st.integers(0, 40),
    eps=st.floats(1e-4, 1.0),
    border=st.sampled_from(BORDERS),
    subsample=st.integers(1, 4),
)
def test_any_shape(channels, height, width, guide_channels, dtype, radius, eps, border, subsample):
    guide, src = picture(guide_channels, height, width, seed=1), picture(channels, height, width, dtype=dtype)
    check(guide, src, radius=radius, eps=eps, border=border, subsample=subsample)


def test_natural_image_in_float32():
    """The issue's figure: eps 1e-4, colour guide, at most 3e-4 from float64. A running sum in float32 would miss it."""
    image = pytest.importorskip("PIL.Image")
    path = data_file("stereo/middv2/teddy/imL.png")
    guide = torch.from_numpy(np.array(image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255
    src = picture(MANY, *guide.shape[1:])
    exact = reference.guided_filter(guide.double(), src.double(), radius=9, eps=1e-4)
    assert (guided_filter(guide, src, radius=9, eps=1e-4) - exact).abs().max() < 1e-5
    assert (guided_filter(guide, src[0], radius=9, eps=1e-4) - exact[0]).abs().max() < 1e-5


@pytest.mark.parametrize("channels", (FEW, MANY))
def test_guides_of_a_batch(channels):
    guide, src = picture(3, 3, 30, 40, seed=1), picture(3, channels, 30, 40)
    check(guide, src)
    together = guided_filter(guide, src, **SETTINGS)
    for colours, image, result in zip(guide, src, together, strict=True):
        assert torch.equal(guided_filter(colours, image, **SETTINGS), result)


@pytest.mark.parametrize("guide_shape", (ODD, (1, *ODD)))
def test_grey_guides(guide_shape):
    guide, src = picture(*ODD, seed=1), picture(2, 3, *ODD)
    expected = guided_filter(guide.expand(2, 1, *ODD), src, **SETTINGS)
    together = guided_filter(guide.view(guide_shape), src, **SETTINGS)
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-6)  # six channels beside each other, or three


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
@pytest.mark.parametrize("channels", (FEW, MANY))
@pytest.mark.parametrize("subsample", (1, 2))
def test_layouts(subsample, channels, layout):
    guide, src = picture(2, 3, *ODD, seed=1), picture(2, channels, *ODD)
    check(IMAGE_LAYOUTS[layout](guide), IMAGE_LAYOUTS[layout](src), subsample=subsample)


@pytest.mark.parametrize("channels", (FEW, MANY))
def test_constants_stay(channels):
    src = torch.full((channels, 90, 120), 0.3)
    smooth = guided_filter(picture(3, 90, 120), src, radius=9, eps=1e-4)
    torch.testing.assert_close(smooth, src, rtol=1e-6, atol=0)
    assert torch.equal(guided_filter(picture(3, 90, 120), 0 * src, **SETTINGS), 0 * src)


@pytest.mark.parametrize("channels", (FEW, MANY))
def test_same_bits_for_every_number_of_threads(channels):
    guide, src = picture(3, 3, 150, 170, seed=1), picture(3, channels, 150, 170)
    assert_same_bits(for_thread_counts((1, 2, 3, 7), lambda: guided_filter(guide, src, **SETTINGS)))


@pytest.mark.parametrize("number", (float("nan"), float("inf"), -float("inf")))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", (FEW, MANY))
def test_numbers_that_are_not_finite_are_found_anywhere(channels, dtype, number):
    guide, src = picture(3, *ODD, seed=1), picture(channels, *ODD, dtype=dtype) - 0.5
    for place in ((0, 0, 0), (1, 17, 5), (0, 20, 33), (channels - 1, 36, 52)):
        bad = src.clone()
        bad[place] = number
        with pytest.raises(
            ValueError, match=rf"src has 1 values that are NaN or infinite, the first at \({place[0]}, "
        ):
            guided_filter(guide, bad, **SETTINGS)
        raw = OP(guide[None], bad[None], 4, 1e-3, "truncate", 1)[0]
        assert raw[place[0]].isnan().all() and raw[(place[0] + 1) % channels].isfinite().all()


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "channels", "border"), pairwise(DTYPES, (FEW, MANY), BORDERS), ids=str)
def test_gradient_against_float64(dtype, channels, border):
    guide, src = picture(3, 40, 50, seed=1), picture(channels, 40, 50, dtype=dtype)
    grad = picture(channels, 40, 50, seed=2).to(dtype)

    def gradient(function, t: Tensor) -> Tensor:
        leaf = t.clone().requires_grad_()
        return torch.autograd.grad(function(guide, leaf, **SETTINGS, border=border), leaf, grad.to(t.dtype))[0]

    exact = gradient(reference.guided_filter, src.double())
    peer = gradient(reference.guided_filter, src)
    terms = terms_of(guide, grad.to(src.dtype), SETTINGS["eps"])
    assert_within_budget(gradient(guided_filter, src), exact, peer, terms=terms)


@pytest.mark.parametrize(("radius", "size", "border"), pairwise((1, 4), ((4, 5), (1, 3), (2, 1)), BORDERS), ids=str)
def test_gradcheck_once_and_twice(radius, size, border):
    src = picture(2, 2, *size, dtype=torch.float64).requires_grad_()
    guide = picture(2, 3, *size, seed=1)

    def function(t: Tensor) -> Tensor:
        return guided_filter(guide, t, radius=radius, eps=1e-2, border=border)

    assert torch.autograd.gradcheck(function, src)
    assert torch.autograd.gradgradcheck(function, src)


def test_gradients_through_the_reference():
    guide = picture(2, 1, 4, 5, dtype=torch.float64, seed=1).requires_grad_()
    src = picture(2, 2, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda g, s: guided_filter(g, s, radius=1, eps=1e-2), (guide, src))
    assert torch.autograd.gradcheck(lambda s: guided_filter(guide.detach(), s, radius=2, eps=1e-2, subsample=2), src)


def test_gradient_that_is_expanded_or_not_finite():
    src, guide = picture(MANY, 20, 30).requires_grad_(), picture(3, 20, 30, seed=1)
    smooth = guided_filter(guide, src, **SETTINGS)
    (ones,) = torch.autograd.grad(smooth.sum(), src, retain_graph=True)
    (dense,) = torch.autograd.grad(smooth, src, torch.ones(MANY, 20, 30), retain_graph=True)
    assert torch.equal(ones, dense)
    grad = torch.zeros(MANY, 20, 30)
    grad[3, 5, 7] = float("inf")  # as loss scaling may give
    (overflown,) = torch.autograd.grad(smooth, src, grad)
    assert not overflown[3].isfinite().any() and overflown[4].isfinite().all()


def test_result_may_be_changed_in_place():
    src = picture(20, 30).requires_grad_()
    guided_filter(src.detach(), src, **SETTINGS).mul_(2).sum().backward()
    assert src.grad is not None


# ---- the contract of the op ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ("contiguous", "transposed"))
@pytest.mark.parametrize("subsample", (1, 2))
def test_opcheck(layout, subsample):
    guide, src = picture(2, 3, 5, 6, seed=1), picture(2, 2, 5, 6)
    if layout == "transposed":
        guide, src = guide.mT, src.mT
    torch.library.opcheck(OP, (guide, src, 2, 1e-2, "truncate", subsample))


def test_compile_without_break_or_recompile():
    torch._dynamo.reset()
    function = torch.compile(lambda g, s: guided_filter(g, s * 2, **SETTINGS) + 1, fullgraph=True, dynamic=True)
    for size, stance in ((8, "default"), (10, "fail_on_recompile")):
        guide, src = picture(3, size, size + 1, seed=1), picture(2, size, size + 1).requires_grad_()
        with torch.compiler.set_stance(stance):
            smooth = function(guide, src)
        expected = guided_filter(guide, src * 2, **SETTINGS) + 1
        torch.testing.assert_close(smooth, expected)
        grad = torch.randn_like(smooth)
        for a, b in zip(torch.autograd.grad(smooth, src, grad), torch.autograd.grad(expected, src, grad), strict=True):
            torch.testing.assert_close(a, b)


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("guided_filter", picture(*ODD))


def test_forced_reference():
    guide, src = picture(3, *ODD, seed=1), picture(2, *ODD)
    with fastseg.backend("reference"):
        assert torch.equal(guided_filter(guide, src, **SETTINGS), reference.guided_filter(guide, src, **SETTINGS))


def test_no_images():
    assert guided_filter(torch.zeros(4, 5), torch.zeros(0, 4, 5), **SETTINGS).shape == (0, 4, 5)
    assert guided_filter(torch.zeros(0, 3, 4, 5), torch.zeros(0, 2, 4, 5), **SETTINGS).shape == (0, 2, 4, 5)


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.float16, np.uint8))
def test_numpy(dtype):
    guide, src = (picture(*ODD, seed=seed).numpy() for seed in (1, 0))
    src = (200 * src).astype(dtype)
    smooth = guided_filter(guide, src, **SETTINGS)
    assert isinstance(smooth, np.ndarray) and smooth.dtype == dtype
    assert np.array_equal(smooth, guided_filter(torch.from_numpy(guide), torch.from_numpy(src), **SETTINGS).numpy())


def message_cases():
    guide, image = torch.rand(3, 4, 5), torch.rand(4, 5)
    bad, volume = torch.rand(4, 5), torch.rand(MANY, 4, 5)
    bad[2, 3] = float("nan")
    volume[7, 1, 2] = float("inf")
    return (
        (TypeError, {"src": [[1.0]]}, "src is a list, expected a NumPy, CuPy or torch array"),
        (TypeError, {"src": image.long()}, "src is torch.int64, expected float32"),
        (TypeError, {"guide": guide.to(torch.complex64)}, "guide is torch.complex64, expected float32"),
        (ValueError, {"src": torch.rand(5)}, r"src has shape \(5,\), expected \(..., H, W\)"),
        (ValueError, {"src": torch.rand(0, 5)}, r"src has shape \(0, 5\), expected .* at least one pixel"),
        (ValueError, {"guide": torch.rand(2, 4, 5)}, r"guide has shape \(2, 4, 5\), expected"),
        (ValueError, {"guide": torch.rand(3, 4, 6)}, r"guide has shape .*, expected src's image size \(4, 5\)"),
        (ValueError, {"guide": torch.rand(2, 3, 4, 5)}, r"src has shape \(4, 5\), expected \(2, C, H, W\)"),
        (ValueError, {"guide": guide.to("meta")}, "guide is on meta, expected src's device cpu"),
        (ValueError, {"radius": -1}, "radius is -1, expected a whole number of pixels from 0"),
        (ValueError, {"radius": 2.5}, "radius is 2.5, expected a whole number"),
        (ValueError, {"radius": 40000}, "radius is 40000, expected .* to 32768"),
        (ValueError, {"eps": 0.0}, "eps is 0.0, expected a finite number > 0"),
        (ValueError, {"eps": float("nan")}, "eps is nan, expected a finite number > 0"),
        (ValueError, {"border": "wrap"}, "border is 'wrap', expected one of 'truncate', 'reflect', 'reflect_101'"),
        (ValueError, {"subsample": 0}, "subsample is 0, expected a whole number >= 1"),
        (ValueError, {"src": bad}, r"src has 1 values that are NaN or infinite, the first at \(2, 3\)"),
        (ValueError, {"src": bad, "subsample": 2}, r"src has 1 values that are NaN or infinite, the first at \(2, 3\)"),
        (ValueError, {"src": volume}, r"src has 1 values that are NaN or infinite, the first at \(7, 1, 2\)"),
        (ValueError, {"guide": bad}, r"guide has 1 values that are NaN or infinite, the first at \(2, 3\)"),
    )


@pytest.mark.parametrize(("error", "changes", "message"), message_cases())
def test_errors(error, changes, message):
    arguments = {"guide": torch.rand(3, 4, 5), "src": torch.rand(4, 5), **SETTINGS, **changes}
    guide, src = arguments.pop("guide"), arguments.pop("src")
    with pytest.raises(error, match="guided_filter: " + message):
        guided_filter(guide, src, **arguments)


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    rerun_with_capability(
        __file__, capability, "against_float64 or borders or fast_guided or any_range or not_finite or anywhere"
    )
