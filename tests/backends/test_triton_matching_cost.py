"""The Triton kernels of matching costs and the census against float64; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg import reference
from fastseg.backends.triton import matching_cost as launcher
from fastseg.ops import census_transform, matching_cost
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.support import DTYPES, assert_within_budget, pairwise, rerun

COSTS: dict[str, dict] = {
    "AD and gradient": {},
    "census": {"ad_weight": 0.0, "gradient_weight": 0.0, "census_weight": 1.0},
    "all": {"census_weight": 0.3, "ad_threshold": 0.1, "gradient_threshold": 0.05, "census_window": (9, 9)},
    "AD-census": {"cost": "ad_census", "census_window": (9, 7), "ad_scale": 0.2},
}


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(params=("one block", "several blocks"))
def blocks(request, monkeypatch):
    if request.param == "several blocks":
        monkeypatch.setattr(launcher, "BLOCK", 16)
        monkeypatch.setattr(launcher, "CENSUS_BLOCK", 32)
        monkeypatch.setattr(launcher, "CHUNK", 4)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """NaN, and for census words a number that none has: what nobody writes is seen."""
    empty, empty_like = torch.empty, torch.empty_like

    def poisoned(out: Tensor) -> Tensor:
        return out.fill_(float("nan") if out.is_floating_point() else 0x7654321076543210)

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poisoned(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poisoned(empty_like(*a, **k)))


def pair(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Few colours, so that greys of different colours are equal, or nearly: the order shows every rounding."""
    colours = torch.randint(0, 9, (2, *shape), generator=torch.Generator().manual_seed(0))
    left, right = 28 * colours if dtype == torch.uint8 else colours / 9
    return left.to(DEVICE, dtype), right.to(DEVICE, dtype)


def check(left: Tensor, right: Tensor, **arguments) -> None:
    with fastseg.backend("triton"):
        actual = matching_cost(left, right, **arguments)
    read = [t.float() if t.dtype == torch.float64 else t for t in (left, right)]
    exact = reference.matching_cost(*read, **{**arguments, "dtype": torch.float64})
    peer = reference.matching_cost(*read, **arguments)
    assert actual.dtype == peer.dtype
    assert_within_budget(actual, exact, peer)


@runs_kernels
@pytest.mark.parametrize(
    ("view", "cost", "blocks"),
    pairwise(("left", "right"), COSTS, ("one block", "several blocks")),
    indirect=["blocks"],
    ids=str,
)
@pytest.mark.usefixtures("blocks")
def test_against_float64(cost, view):
    check(*pair(2, 3, 4, 37), min_disparity=-3, max_disparity=7, view=view, **COSTS[cost])


@runs_kernels
@pytest.mark.parametrize("dtype", (*DTYPES, torch.uint8), ids=str)
@pytest.mark.parametrize("channels", (1, 3))
def test_every_dtype(dtype, channels):
    check(*pair(channels, 5, 21, dtype=dtype), max_disparity=5, **COSTS["all"])
    check(*pair(channels, 5, 21, dtype=dtype), max_disparity=5, dtype=torch.float16, **COSTS["AD-census"])


@runs_kernels
@pytest.mark.parametrize("size", ((1, 1), (1, 7), (7, 1), (2, 2), (3, 40)), ids=str)
def test_all_disparities_of_thin_images(size):
    width = size[1]
    check(*pair(3, *size), min_disparity=1 - width, max_disparity=width, census_weight=0.2)


@runs_kernels
@pytest.mark.parametrize(
    ("dtype", "window", "blocks"),
    pairwise((*DTYPES, torch.uint8), ((7, 9), (9, 7), (9, 9), (3, 3), (1, 5)), ("one block", "several blocks")),
    indirect=["blocks"],
    ids=str,
)
@pytest.mark.usefixtures("blocks")
def test_census_has_the_bits_of_the_reference(dtype, window):
    image, _ = pair(2, 3, 7, 19, dtype=dtype)
    with fastseg.backend("triton"):
        words = census_transform(image, window=window)
    assert torch.equal(words, reference.census_transform(image, window=window))


@runs_kernels
def test_images_that_are_not_dense():
    left, right = (image.mT for image in pair(2, 3, 17, 9))
    check(left, right, max_disparity=5, census_weight=0.2)
