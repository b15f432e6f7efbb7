"""The Triton kernel of the weighted median against its definition; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg.backends.triton import weighted_median as median
from fastseg.ops import weighted_median
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.support import DTYPES, picture, rerun
from tests.weighted_medians import assert_weighted_median, random_mask, random_weights

SETTINGS = {"radius": 2, "sigma_color": 0.3, "sigma_space": 3.0}


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(params=("one block", "several blocks"))
def blocks(request, monkeypatch):
    if request.param == "several blocks":
        monkeypatch.setattr(median, "BLOCK_BYTES", 64)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    empty_like = torch.empty_like

    def poisoned(*args: object, **options: object) -> Tensor:
        out = empty_like(*args, **options)
        return out.fill_(float("nan") if out.is_floating_point() else 77)

    monkeypatch.setattr(torch, "empty_like", poisoned)


def check(src: Tensor, guide: Tensor, **arguments: object) -> None:
    arguments = {**SETTINGS, **arguments}
    on_device = {name: v.to(DEVICE) if isinstance(v, Tensor) else v for name, v in arguments.items()}
    with fastseg.backend("triton"):
        actual = weighted_median(src.to(DEVICE), guide.to(DEVICE), **on_device).cpu()
    assert actual.dtype == src.dtype and actual.shape == src.shape
    assert_weighted_median(actual, src, guide, **arguments)


@runs_kernels
@pytest.mark.parametrize("dtype", (*DTYPES, torch.uint8), ids=str)
def test_every_dtype(dtype):
    src, guide = picture(2, 4, 6, dtype=dtype), picture(3, 4, 6, seed=1)
    check(src, guide)
    check(src, guide, mask=random_mask(4, 6), weights=random_weights(2, 4, 6))


@runs_kernels
@pytest.mark.parametrize("guide_channels", (1, 3))
@pytest.mark.usefixtures("blocks")
def test_against_float64(guide_channels):
    src, guide = picture(4, 6), picture(guide_channels, 4, 6, seed=1)
    check(src, guide)
    check(src, guide, mask=random_mask(4, 6), weights=random_weights(4, 6))


@runs_kernels
@pytest.mark.parametrize("size", ((1, 1), (1, 17), (17, 1), (2, 3)), ids=str)
@pytest.mark.usefixtures("blocks")
def test_thin_images(size):
    check(picture(*size), picture(*size, seed=1), radius=3)


@runs_kernels
@pytest.mark.usefixtures("blocks")
def test_numbers_of_both_signs():
    src = picture(7, 6) - 0.5
    src[1:3] *= 1e30
    src[4:6] *= 1e-30
    check(src, picture(7, 6, seed=1))
    check(src.double(), picture(7, 6, seed=1))


@runs_kernels
@pytest.mark.usefixtures("blocks")
def test_windows_without_weight_and_weights_that_all_vanish():
    weights = torch.zeros(3, 12)
    weights[1, 4:7] = 1
    check(picture(3, 12), 50 * picture(3, 12, seed=1), weights=weights)


@runs_kernels
def test_batches_masks_and_weights():
    src, guide = picture(2, 3, 4, 5), picture(2, 3, 4, 5, seed=1)
    check(src, guide, mask=random_mask(2, 1, 4, 5), weights=random_weights(3, 4, 5))
    check(src, guide[0], mask=random_mask(3, 4, 5), weights=random_weights(2, 1, 4, 5))
    check(src, guide, mask=torch.zeros(4, 5, dtype=torch.bool))
    check(src.mT, guide.mT, mask=random_mask(4, 5).T, weights=random_weights(4, 5).T)


@runs_kernels
@pytest.mark.parametrize("block_bytes", (512, 16384))
def test_wide_windows(block_bytes, monkeypatch):
    monkeypatch.setattr(median, "BLOCK_BYTES", block_bytes)
    mask = torch.zeros(25, 26, dtype=torch.bool)
    mask[::8, ::5] = True
    check(picture(25, 26), picture(3, 25, 26, seed=1), radius=9, mask=mask)
