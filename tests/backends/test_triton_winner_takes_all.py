"""The Triton kernel of winner takes all: the bits of its definition; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg.backends.triton import winner_takes_all as winner
from fastseg.ops import winner_takes_all
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.ops.winner_cases import assert_same, centres, in_chunks, volume, winner_of
from tests.support import DTYPES, IMAGE_LAYOUTS, pairwise, rerun

ODD = (7, 11)


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(autouse=True)
def triton_on_small_blocks(monkeypatch):
    monkeypatch.setattr(winner, "BLOCK", 32)
    with fastseg.backend("triton"):
        yield


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    new_empty = torch.Tensor.new_empty

    def poisoned(*args: object, **kwargs: object) -> Tensor:
        out = new_empty(*args, **kwargs)
        return out.fill_(float("nan") if out.is_floating_point() else 77)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


@runs_kernels
@pytest.mark.parametrize(
    ("near", "slices", "dtype"), pairwise((None, torch.int32, torch.int64), (1, 2, 9), (*DTYPES, torch.uint8)), ids=str
)
def test_is_the_definition_whole_and_in_chunks(near, slices, dtype):
    costs = volume(2, slices, *ODD, dtype=dtype, device=DEVICE)
    arguments = {} if near is None else {"near": centres(slices, 2, *ODD, dtype=near, device=DEVICE), "reach": 2}
    expected = winner_of(costs, **arguments)
    for chunk in (1, 4, slices):
        assert_same(in_chunks(winner_takes_all, costs, chunk, **arguments), expected)


@runs_kernels
@pytest.mark.parametrize("size", ((1, 1), (1, 32), (33, 1)), ids=str)
def test_thin_images(size):
    costs = volume(5, *size, device=DEVICE)
    assert_same(in_chunks(winner_takes_all, costs, 2), winner_of(costs))


@runs_kernels
@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
def test_layouts(layout):
    costs = IMAGE_LAYOUTS[layout](volume(2, 6, *ODD, device=DEVICE))
    near = centres(6, 2, *ODD, device=DEVICE)
    found = winner_takes_all(costs, near=near.mT.contiguous().mT, reach=2)
    assert_same(found, winner_of(costs.contiguous(), near, 2))


@runs_kernels
def test_far_away():
    """Differences that 32 bits do not hold."""
    ends = torch.tensor([[-(2**31), -(2**30), 2**30, 2**31 - 1]], dtype=torch.int32, device=DEVICE)
    found = winner_takes_all(torch.ones(3, 1, 4, device=DEVICE), near=ends, reach=2**30 - 1)
    assert found.index.tolist() == [[-1, -1, 1, -1]]


@runs_kernels
@pytest.mark.parametrize("place", ((0, 0, 0), (3, 4, 5), (8, 6, 10)), ids=str)
@pytest.mark.parametrize("window", (False, True))
def test_nan_is_refused(window, place):
    costs = volume(9, *ODD, device=DEVICE)
    costs[place] = float("nan")
    arguments = {"near": torch.full(ODD, 5, device=DEVICE), "reach": 1} if window else {}
    with pytest.raises(ValueError, match="costs has NaN at 1 pixels"):
        winner_takes_all(costs, **arguments)
