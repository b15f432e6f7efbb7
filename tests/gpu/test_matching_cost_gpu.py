"""matching_cost and census_transform on a GPU: against the reference in float64, and what a launch owes to CUDA."""

from __future__ import annotations

import pytest
import torch

import fastseg
from fastseg import reference
from fastseg.ops import census_transform, matching_cost
from tests.support import assert_within_budget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SIZES = ((1, 1), (1, 700), (700, 1), (37, 53), (375, 450), (1100, 1280))
COSTS: dict[str, dict] = {
    "AD and gradient": {},
    "all": {"census_weight": 0.3, "census_window": (9, 9)},
    "AD-census": {"cost": "ad_census"},
}


def pair(height: int, width: int, dtype: torch.dtype, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    levels = torch.randint(0, 256, (2, channels, height, width), generator=generator)
    left, right = levels if dtype == torch.uint8 else levels / 255
    return left.to("cuda", dtype), right.to("cuda", dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16, torch.uint8), ids=str)
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_against_the_reference(size, cost, dtype):
    left, right = pair(*size, dtype)
    width = size[1]
    arguments = {"min_disparity": -min(width - 1, 9), "max_disparity": min(width, 33), **COSTS[cost]}
    with fastseg.backend("triton"):
        actual = matching_cost(left, right, **arguments)
    exact = reference.matching_cost(left, right, dtype=torch.float64, **arguments)
    assert_within_budget(actual, exact, reference.matching_cost(left, right, **arguments))


@pytest.mark.parametrize("view", ("left", "right"))
def test_half_precision_batches_and_views(view):
    left, right = (torch.stack([image, image.flip(-2)]) for image in pair(40, 60, torch.float32))
    arguments = {"max_disparity": 21, "view": view, "census_weight": 0.2}
    with fastseg.backend("triton"):
        actual = matching_cost(left, right, dtype=torch.float16, **arguments)
    exact = reference.matching_cost(left, right, dtype=torch.float64, **arguments)
    assert_within_budget(actual, exact, exact.half())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8), ids=str)
@pytest.mark.parametrize("window", ((7, 9), (9, 9), (3, 3)), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_census_has_the_bits_of_the_reference(size, window, dtype):
    image, _ = pair(*size, dtype)
    with fastseg.backend("triton"):
        words = census_transform(image, window=window)
    assert torch.equal(words, reference.census_transform(image, window=window))
    assert torch.equal(words.cpu(), census_transform(image.cpu(), window=window))


def test_another_stream():
    left, right = pair(200, 300, torch.float32)
    expected = matching_cost(left, right, max_disparity=30, census_weight=0.2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = matching_cost(left, right, max_disparity=30, census_weight=0.2)
    stream.synchronize()
    assert torch.equal(expected, other)
