"""winner_takes_all on a GPU: the bits of its definition, and what a launch owes to CUDA."""

from __future__ import annotations

import pytest
import torch

import fastseg
from fastseg.ops import winner_takes_all
from tests.ops.winner_cases import assert_same, centres, in_chunks, volume, winner_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SHAPES = ((1, 1, 1), (2, 1, 700), (3, 700, 1), (20, 37, 53), (64, 375, 450), (30, 480, 640))


@pytest.fixture(autouse=True, params=("triton", "reference"))
def forced(request):
    with fastseg.backend(request.param):
        yield


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8), ids=str)
@pytest.mark.parametrize("window", (False, True))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_definition_whole_and_in_chunks(shape, window, dtype):
    costs = volume(*shape, dtype=dtype, device="cuda")
    arguments = {"near": centres(*shape, device="cuda"), "reach": 3} if window else {}
    expected = winner_of(costs, **arguments)
    assert_same(winner_takes_all(costs, **arguments), expected)
    assert_same(in_chunks(winner_takes_all, costs, 7, **arguments), expected)


def test_more_elements_than_32_bits_count():
    if torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("needs 8 GB of GPU memory")
    costs = torch.full((70, 6000, 6000), 200, dtype=torch.uint8, device="cuda")
    costs[69, -1, -1], costs[68, 0, 0] = 1, 2
    winner = winner_takes_all(costs)
    assert winner.index[-1, -1] == 69 and winner.index[0, 0] == 68 and winner.index.sum() == 69 + 68


def test_nan_is_refused():
    costs = volume(9, 40, 50, device="cuda")
    costs[5, 6, 7] = float("nan")
    with pytest.raises(ValueError, match=r"costs has NaN at 1 pixels, the first of them \(6, 7\)"):
        winner_takes_all(costs)


def test_another_stream():
    costs = volume(30, 200, 300, device="cuda")
    expected = winner_takes_all(costs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = winner_takes_all(costs)
    stream.synchronize()
    assert_same(other, expected)
