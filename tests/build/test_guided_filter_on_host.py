"""The CUDA kernel of the guided filter run on the host, against the reference in float64."""

from __future__ import annotations

import ctypes
import shutil

import pytest
import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import cuda_guided_filter as launcher
from fastseg.backends.images import images
from fastseg.ops.guided_filter import BORDERS
from tests.build.host_build import build_on_host
from tests.support import assert_within_budget, pairwise

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8)


class Images(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int),
        ("batch_stride", ctypes.c_int64),
        ("channel_stride", ctypes.c_int64),
    ]


class Planes(ctypes.Structure):
    _fields_ = [
        ("batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("guide_channels", ctypes.c_int64),
        ("src", Images),
        ("dst", Images),
        ("colours", ctypes.c_void_p),
        ("statistics", ctypes.c_void_p),
        ("radius", ctypes.c_int64),
        ("border", ctypes.c_int),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    built = ctypes.CDLL(str(build_on_host("guided_filter", tmp_path_factory.mktemp("host"), "-shared")))
    built.last_error.restype = ctypes.c_char_p
    return built


@pytest.fixture
def kernel(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The launcher calls the library, and what it hands over to be written is NaN or 77."""

    def launch(src: Tensor, dst: Tensor, colours: Tensor, statistics: Tensor | None, radius: int, border: str) -> None:
        dst.fill_(float("nan") if dst.dtype.is_floating_point else 77)
        given = None if statistics is None else statistics.data_ptr()
        views = Images(*images(src)), Images(*images(dst)), colours.data_ptr(), given
        args = Planes(*src.shape, colours.shape[1], *views, radius, launcher.BORDER[border])
        assert library.guided_filter(ctypes.byref(args)) == 0, library.last_error()

    monkeypatch.setattr(launcher, "_launch", launch)
    library.set_multiprocessors(1)  # bands of as many rows as can be
    return library


def case(batch: int, channels: int, height: int, width: int, guides: int) -> tuple[Tensor, Tensor]:
    """Noise, and a guide with edges and little noise, as photographs have them."""
    generator = torch.Generator().manual_seed(height * width + guides)
    src = torch.rand(batch, channels, height, width, generator=generator)
    noise = torch.rand(batch, guides, height, width, generator=generator)
    return src, ((torch.arange(height)[:, None] // 7 + torch.arange(width) // 11) % 3) / 3 + 0.1 * noise


def check(src: Tensor, guide: Tensor, radius: int, eps: float = 1e-2, border: str = "truncate") -> None:
    actual = launcher.guided_filter(guide, src, radius, eps, border)
    assert actual.dtype == src.dtype
    exact = reference.guided_filter(guide.double(), src.double(), radius=radius, eps=eps, border=border)
    if src.dtype == torch.uint8:
        assert (actual.double() - exact.clamp(0, 255)).abs().max() <= 0.5 + 1e-2
    else:
        peer = reference.guided_filter(guide, src, radius=radius, eps=eps, border=border)
        assert_within_budget(actual, exact, peer, terms=2.0)


@pytest.mark.parametrize(
    ("size", "radius", "border", "guides"),
    pairwise(((1, 1), (1, 70), (40, 1), (2, 2), (23, 37)), (1, 4, 21), BORDERS, (1, 3)),
    ids=str,
)
def test_borders(kernel: ctypes.CDLL, size: tuple[int, int], radius: int, border: str, guides: int) -> None:
    """Windows of a part of an image, and windows much larger than it."""
    check(*case(1, 3, *size, guides), radius, border=border)


@pytest.mark.parametrize("border", BORDERS)
def test_the_largest_radius(kernel: ctypes.CDLL, border: str) -> None:
    check(*case(1, 1, 5, 140, 1), 96, border=border)


@pytest.mark.parametrize("guides", (1, 3))
def test_windows_of_one_pixel(kernel: ctypes.CDLL, guides: int) -> None:
    """a is 0 but for rounding. Ops copy src instead."""
    src, guide = case(1, 2, 9, 70, guides)
    torch.testing.assert_close(launcher.guided_filter(guide, src, 0, 1e-2, "truncate"), src, atol=1e-6, rtol=0)


@pytest.mark.parametrize("guides", (1, 3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(kernel: ctypes.CDLL, dtype: torch.dtype, guides: int) -> None:
    src, guide = case(1, 5, 23, 41, guides)
    check((255 * src).round().to(dtype) if dtype == torch.uint8 else src.to(dtype), guide, 4)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_guides_of_every_dtype(kernel: ctypes.CDLL, dtype: torch.dtype) -> None:
    src, guide = case(1, 1, 23, 41, 3)
    check(src, (255 * guide).round().to(dtype) if dtype == torch.uint8 else guide.to(dtype), 3, eps=65.0)


@pytest.mark.parametrize(("radius", "guides"), ((1, 1), (9, 3), (60, 1)))
def test_strips_and_bands(kernel: ctypes.CDLL, radius: int, guides: int) -> None:
    """More columns than the most threads, and more multiprocessors than bands."""
    kernel.set_multiprocessors(100)
    check(*case(2, 1, 40, 600, guides), radius)
    assert kernel.last_ctas() > 2 * 600 // kernel.last_threads()


@pytest.mark.parametrize("border", BORDERS)
def test_tall_images(kernel: ctypes.CDLL, border: str) -> None:
    """Bands of a hundred rows and more, where sums would have drifted, and several of them."""
    check(*case(1, 2, 333, 20, 3), 5, border=border)
    kernel.set_multiprocessors(10)
    check(*case(1, 2, 333, 20, 3), 5, border=border)
    assert kernel.last_ctas() > 4


@pytest.mark.parametrize("channels", (1, 2, 3, 4, 5, 9))
def test_channels_that_fill_no_group(kernel: ctypes.CDLL, channels: int) -> None:
    for guides in (1, 3):
        check(*case(2, channels, 9, 17, guides), 2)


def test_windows_cut_by_a_narrow_image_may_have_any_radius(kernel: ctypes.CDLL) -> None:
    check(*case(1, 1, 60, 30, 3), 1 << 15)


def test_a_small_eps_and_a_colour_guide(kernel: ctypes.CDLL) -> None:
    src, guide = case(1, 2, 100, 110, 3)
    actual = launcher.guided_filter(guide, src, 9, 1e-4, "truncate")
    exact = reference.guided_filter(guide.double(), src.double(), radius=9, eps=1e-4)
    assert (actual - exact).abs().max() <= 3e-4


def test_channels_between_others(kernel: ctypes.CDLL) -> None:
    src, guide = case(2, 6, 12, 19, 1)
    check(src[:, 1:6:2], guide, 3)


def test_argmin(kernel: ctypes.CDLL) -> None:
    src, guide = case(1, 7, 12, 19, 3)
    index, cost = launcher.guided_filter_argmin(guide, src, 3, 1e-2, "truncate")
    filtered = launcher.guided_filter(guide, src, 3, 1e-2, "truncate")
    assert torch.equal(cost, filtered.amin(1)) and torch.equal(index, filtered.argmin(1))


def test_a_radius_beyond_a_strip_is_refused(kernel: ctypes.CDLL) -> None:
    src, guide = case(1, 1, 4, 99, 1)
    with pytest.raises(AssertionError, match="radius is 98, expected at most 96"):
        launcher.guided_filter(guide, src, 98, 1e-2, "truncate")
