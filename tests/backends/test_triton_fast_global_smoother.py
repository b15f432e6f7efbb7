"""The Triton kernel of the fast global smoother against float64; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg import reference
from fastseg.backends.triton import fast_global_smoother as smoother
from fastseg.ops import fast_global_smoother
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.support import DTYPES, assert_within_budget, pairwise, rerun

SETTINGS = {"lambda_": 30.0, "sigma": 0.2, "iterations": 2}


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(params=("one tile", "several tiles"))
def tiles(request, monkeypatch):
    if request.param == "several tiles":
        monkeypatch.setattr(smoother, "TILE_BYTES", 128)
        monkeypatch.setattr(smoother, "COLUMNS", 4)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    empty_like, new_empty = torch.empty_like, torch.Tensor.new_empty

    def poisoned(out: Tensor) -> Tensor:
        return out.fill_(float("nan") if out.is_floating_point() else 77)

    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poisoned(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poisoned(new_empty(*a, **k)))


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    t = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (255 * t).round().to(DEVICE, dtype) if dtype == torch.uint8 else t.to(DEVICE, dtype)


def check(src: Tensor, guide: Tensor, **parameters: float) -> None:
    parameters = {**SETTINGS, **parameters}
    with fastseg.backend("triton"):
        actual = fast_global_smoother(src, guide, **parameters)
    assert actual.dtype == src.dtype and actual.shape == src.shape
    guide_as_read = guide.to(torch.promote_types(src.dtype, torch.float32))
    exact = reference.fast_global_smoother(src.double(), guide_as_read, **parameters)
    if src.dtype == torch.uint8:
        assert (actual.double() - exact).abs().max() <= 0.5 + 1e-3
        return
    # Scans round in another order than loops do, a few more times.
    terms = 4 * exact.abs().max().item()
    peer = reference.fast_global_smoother(src, guide, **parameters)
    assert_within_budget(actual, exact, peer, terms=terms)


@runs_kernels
@pytest.mark.parametrize(
    ("guide_channels", "dtype", "tiles"),
    pairwise((1, 3), (*DTYPES, torch.uint8), ("one tile", "several tiles")),
    indirect=["tiles"],
    ids=str,
)
@pytest.mark.usefixtures("tiles")
def test_against_float64(dtype, guide_channels):
    check(random(2, 9, 21, dtype=dtype), random(guide_channels, 9, 21, seed=1))


@runs_kernels
@pytest.mark.parametrize("size", ((1, 1), (1, 37), (37, 1), (2, 3)), ids=str)
@pytest.mark.usefixtures("tiles")
def test_thin_images(size):
    check(random(*size), random(*size, seed=1))


@runs_kernels
@pytest.mark.parametrize(
    ("sigma", "lambda_", "tiles"),
    pairwise((1e-20, 1e20), (0.0, 1e6, 1e20), ("one tile", "several tiles")),
    indirect=["tiles"],
    ids=str,
)
@pytest.mark.usefixtures("tiles")
def test_strong_and_weak(lambda_, sigma):
    check(random(5, 40), random(5, 40, dtype=torch.uint8, seed=1), lambda_=lambda_, sigma=sigma, iterations=1)


@runs_kernels
def test_guides_of_a_batch():
    check(random(2, 2, 6, 7), random(2, 3, 6, 7, seed=1))


@runs_kernels
@pytest.mark.usefixtures("tiles")
def test_gradient():
    src, guide, grad = random(6, 11, dtype=torch.float64), random(3, 6, 11, seed=1), random(6, 11, seed=2).double()

    def gradient(backend: str) -> Tensor:
        leaf = src.clone().requires_grad_()
        with fastseg.backend(backend):
            return torch.autograd.grad(fast_global_smoother(leaf, guide, **SETTINGS), leaf, grad)[0]

    torch.testing.assert_close(gradient("triton"), gradient("reference"), rtol=1e-11, atol=1e-12)
