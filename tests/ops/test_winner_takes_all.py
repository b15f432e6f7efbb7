"""winner_takes_all on CPU: the bits of its definition, whole and in chunks, and the contract of the op."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastseg
from fastseg.backends import cpu_winner_takes_all as cpu
from fastseg.ops import Winner, winner_takes_all
from tests.ops.winner_cases import PLANES, assert_same, centres, in_chunks, volume, winner_of
from tests.support import DTYPES, IMAGE_LAYOUTS, for_thread_counts, pairwise, poison, rerun_with_capability

OP = torch.ops.fastseg.winner_takes_all.default
ALL_DTYPES = (*DTYPES, torch.uint8)
#: Less than a vector, some vectors and a part, more than a block and than some.
SIZES = ((1, 1), (1, 7), (5, 13), (31, 17), (37, 53), (70, 80))
ODD = (19, 29)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_empty")


@pytest.mark.parametrize(("size", "slices", "dtype"), pairwise(SIZES, (1, 2, 3, 4, 5, 9, 64), ALL_DTYPES), ids=str)
def test_is_the_definition(size, slices, dtype):
    costs = volume(slices, *size, dtype=dtype)
    assert_same(winner_takes_all(costs), winner_of(costs))


@pytest.mark.parametrize(
    ("chunk", "near", "dtype", "backend"),
    pairwise((1, 2, 3, 7, 20), (None, torch.int32, torch.int64), ALL_DTYPES, ("cpu", "reference")),
    ids=str,
)
def test_chunks(chunk, near, dtype, backend):
    costs = volume(20, *ODD, dtype=dtype)
    arguments = {} if near is None else {"near": centres(20, *ODD, dtype=near), "reach": 2}
    with fastseg.backend(backend):
        assert_same(in_chunks(winner_takes_all, costs, chunk, **arguments), winner_of(costs, **arguments))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    costs=st.lists(st.sampled_from((-1.0, -0.0, 0.0, 1.0, 2.0, float("inf"))), min_size=1, max_size=9),
    near=st.none() | st.integers(-3, 11),
    reach=st.integers(0, 4),
    cuts=st.sets(st.integers(1, 8)),
    backend=st.sampled_from(("cpu", "reference")),
)
def test_any_costs_in_any_chunks(costs, near, reach, cuts, backend):
    """Also the sign of zeros, which are equal."""
    whole = torch.tensor(costs).view(-1, 1, 1)
    arguments = {} if near is None else {"near": torch.full((1, 1), near), "reach": reach}
    edges = [0, *sorted(cut for cut in cuts if cut < len(costs)), len(costs)]
    winner = None
    with fastseg.backend(backend):
        for begin, end in itertools.pairwise(edges):
            winner = winner_takes_all(whole[begin:end], previous=winner, **arguments)
        together = winner_takes_all(whole, **arguments)
    assert_same(winner, together)
    for name, ours, expected in zip(PLANES, together, winner_of(whole, **arguments), strict=False):
        assert torch.equal(ours, expected), name


@pytest.mark.parametrize("reach", (0, 1, 5, 2**30 - 1))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.uint8), ids=str)
def test_reach(dtype, reach):
    costs, near = volume(2, 12, *ODD, dtype=dtype), centres(12, 2, *ODD)
    expected = winner_of(costs, near, reach)
    assert_same(winner_takes_all(costs, near=near, reach=reach), expected)
    assert_same(in_chunks(winner_takes_all, costs, 5, near=near, reach=reach), expected)


@pytest.mark.parametrize("backend", ("cpu", "reference"))
def test_far_away(backend):
    """Differences that 32 bits do not hold."""
    ends = torch.tensor([[-(2**63), -(2**31), -(2**30), 2**30, 2**31 - 1, 2**63 - 1]])
    costs = torch.ones(3, 1, 6)
    for near in (ends, ends.clamp(-(2**31), 2**31 - 1).int()):
        with fastseg.backend(backend):
            winner = winner_takes_all(costs, near=near, reach=2**30 - 1)
        assert winner.index.tolist() == [[-1, -1, -1, 1, -1, -1]]


def test_batches():
    costs, near = volume(3, 10, *ODD), centres(10, 3, *ODD)
    together = winner_takes_all(costs, near=near, reach=3)
    for i in range(3):
        alone = winner_takes_all(costs[i], near=near[i], reach=3)
        assert_same(Winner(*(plane[i] for plane in together[:-1]), 10), alone)


def test_nobody():
    winner = winner_takes_all(torch.full((4, 2, 3), torch.inf))
    assert (winner.index == -1).all()
    assert all((plane == torch.inf).all() for plane in winner[1:-1])
    far = winner_takes_all(torch.zeros(4, 2, 3), near=torch.full((2, 3), 9), reach=2)
    assert (far.index == -1).all() and not far.last.any()
    assert all((plane == torch.inf).all() for plane in far[1:-2])


def test_first_of_equal_costs():
    costs = torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0]).view(-1, 1, 1)
    assert [plane.item() for plane in winner_takes_all(costs)[:-1]] == [1, 1.0, 3.0, 2.0, 1.0, 1.0]
    assert winner_takes_all(costs, near=torch.full((1, 1), 4), reach=1).index.item() == 3


@pytest.mark.parametrize("backend", ("cpu", "reference"))
def test_keeps_nothing_of_its_arguments(backend):
    costs = volume(6, *ODD)
    expected = winner_of(costs)
    buffer, winner = torch.empty(2, *ODD), None
    with fastseg.backend(backend):
        for first in (0, 2, 4):  # the same memory for each chunk
            buffer.copy_(costs[first : first + 2])
            winner = winner_takes_all(buffer, previous=winner)
    buffer.fill_(7)
    assert_same(winner, expected)


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
def test_layouts(layout):
    costs, near = volume(2, 9, *ODD), centres(9, 2, *ODD)
    laid = IMAGE_LAYOUTS[layout](costs)
    others = {"near": near.mT.contiguous().mT, "reach": 2}
    expected = winner_of(laid.contiguous(), near, 2)
    assert_same(winner_takes_all(laid, **others), expected)
    first = winner_takes_all(laid[:, :4], **others)
    turned = Winner(*(plane.mT.contiguous().mT for plane in first[:-1]), 4)
    assert_same(winner_takes_all(laid[:, 4:], previous=turned, **others), expected)


@pytest.mark.parametrize("batch", (1, 3))
def test_same_bits_for_every_number_of_threads(batch):
    costs = torch.rand(batch, 30, 61, 97, generator=torch.Generator().manual_seed(0))
    for result in for_thread_counts((1, 2, 3, 7), lambda: in_chunks(winner_takes_all, costs, 20)):
        assert_same(result, winner_of(costs))


def test_large_planes():
    """Outputs that come from the cache of large ones."""
    costs = torch.rand(3, 600, 700, generator=torch.Generator().manual_seed(0))
    assert_same(in_chunks(winner_takes_all, costs, 2), winner_of(costs))


# ---- NaN -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ("cpu", "reference"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", ((0, 0, 0), (3, 4, 5), (8, 18, 28)), ids=str)
@pytest.mark.parametrize("window", (False, True))
def test_nan_is_refused(window, place, dtype, backend):
    """Wherever it is: in a slice that would have lost, and in one that is no candidate."""
    costs = volume(9, *ODD, dtype=dtype)
    costs[place] = float("nan")
    arguments = {"near": torch.full(ODD, 5), "reach": 1} if window else {}
    message = rf"^winner_takes_all: costs has NaN at 1 pixels, the first of them \({place[1]}, {place[2]}\); expected"
    with fastseg.backend(backend), pytest.raises(ValueError, match=message):
        winner_takes_all(costs, **arguments)


def test_infinity_of_both_signs_is_not_nan():
    costs = torch.rand(3, *ODD)
    costs[1, 2, 3], costs[:, 4, 5] = -torch.inf, torch.inf
    assert_same(winner_takes_all(costs), winner_of(costs))


def test_nan_under_compile():
    torch._dynamo.reset()
    costs = torch.rand(4, *ODD)
    costs[2, 3, 4] = float("nan")
    winner = torch.compile(winner_takes_all, fullgraph=True)(costs)
    rest = torch.compile(winner_takes_all, fullgraph=True)(torch.rand(3, *ODD), previous=winner)
    for found in (winner, rest):
        assert found.cost.isnan().nonzero().tolist() == [[3, 4]]


# ---- the contract of the op ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.uint8), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "transposed"))
def test_opcheck(layout, dtype):
    costs, near = volume(2, 5, 6, 7, dtype=dtype), centres(5, 2, 6, 7)
    if layout == "transposed":
        costs, near = costs.mT, near.mT
    state = OP(costs, [], 0, None, 0)
    torch.library.opcheck(OP, (costs, [], 0, None, 0))
    torch.library.opcheck(OP, (costs, list(state), 5, near, 2))


def test_compile_without_break_or_recompile():
    torch._dynamo.reset()

    def both(costs: torch.Tensor, near: torch.Tensor) -> Winner:
        first = winner_takes_all(costs[:3] * 2, near=near, reach=2)
        return winner_takes_all(costs[3:] * 2, previous=first, near=near, reach=2)

    function = torch.compile(both, fullgraph=True, dynamic=True)
    for slices, size, stance in ((6, (8, 9), "default"), (8, (10, 12), "fail_on_recompile")):
        costs, near = volume(slices, *size), centres(slices, *size)
        with torch.compiler.set_stance(stance):
            assert_same(function(costs, near), winner_of(costs * 2, near, 2))


def test_has_no_gradient():
    costs = torch.rand(4, *ODD, requires_grad=True)
    winner = winner_takes_all(costs)
    winner = winner_takes_all(costs, previous=winner)
    assert not any(plane.requires_grad for plane in winner[:-1])


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("winner_takes_all", volume(3, *ODD))


def test_no_volumes():
    winner = winner_takes_all(torch.zeros(0, 3, 4, 5))
    winner = winner_takes_all(torch.zeros(0, 2, 4, 5), previous=winner)
    assert winner.slices == 5 and all(plane.shape == (0, 4, 5) for plane in winner[:-1])


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.float16, np.uint8))
def test_numpy(dtype):
    costs = volume(8, *ODD).nan_to_num(posinf=4.0).numpy().clip(0).astype(dtype)
    near = centres(8, *ODD).numpy()
    winner = in_chunks(winner_takes_all, costs, 3, near=near, reach=3)
    assert all(isinstance(plane, np.ndarray) for plane in winner[:-1])
    expected = winner_of(torch.from_numpy(costs), torch.from_numpy(near), 3)
    assert_same(Winner(*map(torch.from_numpy, winner[:-1]), winner.slices), expected)


def message_cases():
    costs = torch.rand(4, 5, 6)
    winner = winner_takes_all(costs)
    near = torch.zeros(5, 6, dtype=torch.int32)
    return (
        (TypeError, {"costs": [1.0]}, "costs is a list, expected a NumPy, CuPy or torch array"),
        (TypeError, {"costs": costs.long()}, "costs is torch.int64, expected float32"),
        (ValueError, {"costs": torch.rand(5, 6)}, r"costs has shape \(5, 6\), expected \(D, H, W\) or \(B, D, H, W\)"),
        (ValueError, {"costs": torch.rand(0, 5, 6)}, r"costs has shape \(0, 5, 6\), expected"),
        (ValueError, {"costs": torch.rand(3, 0, 6)}, r"costs has shape \(3, 0, 6\), expected"),
        (TypeError, {"previous": tuple(winner)}, "previous is a tuple, expected a Winner"),
        (ValueError, {"previous": winner._replace(slices=0)}, "previous.slices is 0, expected a whole number from 1"),
        (ValueError, {"previous": winner._replace(slices=2**30 - 4)}, "costs has 4 slices after 1073741820, expected"),
        (TypeError, {"previous": winner._replace(index=near.long())}, "previous.index is torch.int64, expected"),
        (
            TypeError,
            {"costs": costs.double(), "previous": winner},
            "previous.cost is torch.float32, expected torch.float64 beside costs of torch.float64",
        ),
        (
            ValueError,
            {"costs": torch.rand(4, 5, 7), "previous": winner},
            r"previous.index has shape \(5, 6\), expected \(5, 7\), the pixels of costs",
        ),
        (ValueError, {"previous": winner._replace(last=winner.last[None])}, r"previous.last has shape \(1, 5, 6\)"),
        (ValueError, {"previous": winner._replace(after=winner.after.to("meta"))}, "previous.after is on meta"),
        (TypeError, {"near": near.float()}, "near is torch.float32, expected int32 or int64"),
        (ValueError, {"near": near[:4]}, r"near has shape \(4, 6\), expected \(5, 6\), the pixels of costs"),
        (ValueError, {"near": near.to("meta")}, "near is on meta, expected costs's device cpu"),
        (ValueError, {"near": near, "reach": -1}, "reach is -1, expected a whole number of slices from 0"),
        (ValueError, {"near": near, "reach": 1.5}, "reach is 1.5, expected a whole number of slices from 0"),
        (ValueError, {"near": near, "reach": 2**30}, "reach is 1073741824, expected a whole number of slices from 0"),
        (ValueError, {"reach": 2}, "reach is 2, expected 0 without near"),
    )


@pytest.mark.parametrize(("error", "change", "message"), message_cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_errors(error, change, message):
    arguments = {"costs": torch.rand(4, 5, 6), **change}
    with pytest.raises(error, match=f"^winner_takes_all: {message}"):
        winner_takes_all(arguments.pop("costs"), **arguments)


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "definition or chunks or reach or far or nan or layouts")
