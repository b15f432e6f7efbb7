"""The Triton kernels of the guided filter against float64; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg import reference
from fastseg.backends.triton import guided_filter as kernels
from fastseg.ops import guided_filter, guided_filter_argmin
from fastseg.ops.guided_filter import BORDERS
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels, scan_by_doubling
from tests.support import DTYPES, assert_within_budget, pairwise, rerun


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that small images have several strips, tiles and slices of a tile."""
    if INTERPRETED:
        scan_by_doubling(monkeypatch)
    monkeypatch.setattr(kernels, "BLOCKS", (8, 16, 32))
    monkeypatch.setattr(kernels, "tile_of", lambda stage, block, channels, dtype: (min(channels, 2), 1))
    monkeypatch.setattr(kernels, "MOST_ROWS", 6)
    monkeypatch.setattr(kernels, "LEAST_ROWS", 6)


@pytest.fixture(params=("in tiles", "too wide for tiles"))
def windows(request, monkeypatch):
    if request.param == "too wide for tiles":
        monkeypatch.setattr(kernels, "WASTE", 0)
        monkeypatch.setattr(kernels, "ROW_PROGRAMS", 5)
        monkeypatch.setattr(kernels, "ROW_BLOCK", 16)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    def poison(owner: object, name: str) -> None:
        allocate = getattr(owner, name)

        def poisoned(*args: object, **kwargs: object) -> Tensor:
            out = allocate(*args, **kwargs)
            return out.fill_(float("nan") if out.is_floating_point() else 77)

        monkeypatch.setattr(owner, name, poisoned)

    for owner, name in ((torch, "empty_like"), (torch, "empty"), (torch.Tensor, "new_empty")):
        poison(owner, name)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    t = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (255 * t).round().to(DEVICE, dtype) if dtype == torch.uint8 else t.to(DEVICE, dtype)


def check(src: Tensor, guide: Tensor, radius: int, eps: float = 1e-2, border: str = "truncate", **more: int) -> None:
    parameters = {"radius": radius, "eps": eps, "border": border, **more}
    with fastseg.backend("triton"):
        actual = guided_filter(guide, src, **parameters)
    assert actual.dtype == src.dtype and actual.shape == src.shape
    guide_as_read = guide.to(torch.promote_types(src.dtype, torch.float32)).double()
    exact = reference.guided_filter(guide_as_read, src.double(), **parameters)
    if src.dtype == torch.uint8:
        assert (actual.double() - exact.clamp(0, 255)).abs().max() <= 0.5 + 1e-3
        return
    peer = reference.guided_filter(guide, src, **parameters)
    # What is added up: p and I p, and slopes times the guide.
    assert_within_budget(actual, exact, peer, terms=2 * exact.abs().max().item())


@runs_kernels
@pytest.mark.parametrize("dtype", (*DTYPES, torch.uint8), ids=str)
@pytest.mark.parametrize("guide_channels", (1, 3))
def test_against_float64(dtype, guide_channels):
    check(random(3, 7, 18, dtype=dtype), random(guide_channels, 7, 18, seed=1), 2)


@runs_kernels
@pytest.mark.parametrize(
    ("guide_channels", "dtype", "windows"),
    pairwise((1, 3), (torch.float64, torch.uint8), ("in tiles", "too wide for tiles")),
    indirect=["windows"],
    ids=str,
)
@pytest.mark.usefixtures("windows")
def test_tiles_and_rows(dtype, guide_channels):
    check(random(2, 5, 18, dtype=dtype), random(guide_channels, 5, 18, seed=1), 2)


@runs_kernels
@pytest.mark.parametrize("dtype", (*DTYPES, torch.uint8), ids=str)
def test_guides_of_every_dtype(dtype):
    eps = 6.5 if dtype == torch.uint8 else 1e-4
    check(random(2, 7, 12), random(3, 7, 12, dtype=dtype, seed=1), 1, eps)


@runs_kernels
@pytest.mark.parametrize(
    ("radius", "border", "windows"),
    pairwise((0, 1, 4, 5, 13, 60), BORDERS, ("in tiles", "too wide for tiles")),
    indirect=["windows"],
    ids=str,
)
@pytest.mark.usefixtures("windows")
def test_borders(radius, border):
    """Windows of one pixel, inside the image, up to its edge, as large as it and larger, several times over."""
    check(random(1, 5, 13), random(5, 13, seed=1), radius, border=border)


@runs_kernels
@pytest.mark.parametrize(
    ("size", "border", "windows"),
    pairwise(((1, 1), (1, 17), (17, 1), (2, 3)), BORDERS, ("in tiles", "too wide for tiles")),
    indirect=["windows"],
    ids=str,
)
@pytest.mark.usefixtures("windows")
def test_thin_images(size, border):
    check(random(*size), random(*size, seed=1), 2, border=border)


@runs_kernels
@pytest.mark.parametrize("border", BORDERS)
def test_the_largest_radius(border):
    check(random(4, 6), random(4, 6, seed=1), 1 << 15, border=border)


@runs_kernels
def test_guides_of_a_batch():
    check(random(2, 3, 6, 7), random(2, 3, 6, 7, seed=1), 1)


@runs_kernels
@pytest.mark.usefixtures("windows")
def test_a_volume_in_parts(monkeypatch):
    """Two slices at a time: the third one of an image is a part of its own."""
    src, guide = random(2, 3, 3, 7), random(2, 1, 3, 7, seed=1)
    with fastseg.backend("triton"):
        whole = guided_filter(guide, src, radius=2, eps=1e-2)
        monkeypatch.setattr(kernels, "SCRATCH_BYTES", 2 * 2 * 21 * 4 + 3)
        assert torch.equal(guided_filter(guide, src, radius=2, eps=1e-2), whole)


@runs_kernels
@pytest.mark.parametrize("subsample", (2, 3, 50))
@pytest.mark.parametrize("guide_channels", (1, 3))
def test_subsample(subsample, guide_channels):
    check(random(2, 11, 14), random(guide_channels, 11, 14, seed=1), 4, subsample=subsample)


@runs_kernels
def test_subsample_of_bytes_and_of_single_pixels():
    check(random(9, 10, dtype=torch.uint8), random(9, 10, seed=1), 3, subsample=2)
    check(random(9, 10), random(9, 10, seed=1), 0, subsample=4)


@runs_kernels
def test_coefficients_are_those_of_the_centred_guide():
    """Where src is linear in the guide, a is its slope, nearly, and b its mean, less what eps takes from a."""
    guide = random(1, 1, 8, 9, dtype=torch.float64)
    coefficients = kernels.guided_filter_coefficients(guide, 3 * guide + 1, 2, 1e-9, "reflect")
    torch.testing.assert_close(coefficients[:, :, 0], torch.full_like(guide, 3), rtol=1e-6, atol=0)
    expected = torch.full_like(guide, 3 * guide.mean().item() + 1)
    torch.testing.assert_close(coefficients[:, :, 1], expected, rtol=1e-6, atol=0)


@runs_kernels
@pytest.mark.parametrize("eps", (1e-12, 1e-30))
def test_a_flat_guide_and_a_small_eps(eps):
    """Nothing but eps keeps the covariance from being singular: colours are equal, and then flat."""
    src = random(2, 6, 9)
    with fastseg.backend("triton"):
        for guide in (random(1, 6, 9, seed=1).expand(3, 6, 9), torch.full((3, 6, 9), 0.3, device=DEVICE)):
            assert guided_filter(guide, src, radius=2, eps=eps).isfinite().all()


@runs_kernels
def test_guide_far_from_zero():
    """Float32 would lose the covariance of a guide that is not centred."""
    guide = (random(3, 9, 12, dtype=torch.float64, seed=1) + 50).float()
    check(random(2, 9, 12), guide, 2, 1e-3)


@runs_kernels
@pytest.mark.parametrize("border", BORDERS)
def test_gradient(border):
    src, guide, grad = random(6, 11, dtype=torch.float64), random(3, 6, 11, seed=1), random(6, 11, seed=2).double()

    def gradient(backend: str) -> Tensor:
        leaf = src.clone().requires_grad_()
        with fastseg.backend(backend):
            return torch.autograd.grad(guided_filter(guide, leaf, radius=2, eps=1e-2, border=border), leaf, grad)[0]

    torch.testing.assert_close(gradient("triton"), gradient("reference"), rtol=1e-10, atol=1e-11)


@runs_kernels
def test_what_does_not_lie_in_order():
    src, guide = random(2, 9, 6), random(6, 9, 3, seed=1).movedim(-1, 0)
    with fastseg.backend("triton"):
        actual = guided_filter(guide, src.mT, radius=1, eps=1e-2)
        expected = guided_filter(guide.contiguous(), src.mT.contiguous(), radius=1, eps=1e-2)
    assert actual.is_contiguous() and torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("width", "radius", "block"), ((450, 9, 256), (494, 9, 512), (20, 3, 128), (3000, 60, 512), (6000, 9, 128))
)
def test_small_tiles_that_waste_little(width, radius, block, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCKS", (128, 256, 512))
    assert kernels.block_of(width, radius) == block


def test_windows_too_wide_for_tiles(monkeypatch):
    monkeypatch.setattr(kernels, "BLOCKS", (128, 256, 512))
    assert kernels.block_of(4000, 190) == 512
    assert kernels.block_of(4000, 200) is None
    assert kernels.block_of(4000, 256) is None


@runs_kernels
@pytest.mark.parametrize("dtype", (torch.float32, torch.uint8), ids=str)
def test_argmin_is_the_minimum_of_the_filtered_volume(dtype):
    guide, costs = random(3, 9, 14, seed=1), random(3, 9, 14, dtype=dtype)
    with fastseg.backend("triton"):
        found = guided_filter_argmin(guide, costs, radius=2, eps=1e-2)
        filtered = guided_filter(guide, costs if dtype == torch.float32 else costs.float(), radius=2, eps=1e-2)
    assert torch.equal(found.cost, filtered.amin(0))
    assert torch.equal(filtered.gather(0, found.index[None])[0], found.cost)
