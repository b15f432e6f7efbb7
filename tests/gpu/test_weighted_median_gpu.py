"""weighted_median on a GPU: against its definition in float64, and what a launch owes to CUDA."""

from __future__ import annotations

import pytest
import torch

import fastseg
from fastseg.ops import weighted_median
from tests.support import DTYPES, picture
from tests.weighted_medians import assert_weighted_median, random_mask

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SETTINGS = {"radius": 9, "sigma_color": 0.1, "sigma_space": 9.0}
SIZES = ((1, 1), (1, 700), (700, 1), (37, 53), (375, 450))


@pytest.mark.parametrize("dtype", (*DTYPES, torch.uint8), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_the_definition(size, dtype):
    src, guide = picture(*size, dtype=dtype), picture(3, *size, seed=1)
    with fastseg.backend("triton"):
        actual = weighted_median(src.cuda(), guide.cuda(), **SETTINGS)
    assert actual.is_cuda
    assert_weighted_median(actual.cpu(), src, guide, **SETTINGS)


@pytest.mark.parametrize("radius", (1, 9, 31, 40))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_masks_weights_and_radii(radius, dtype):
    src, guide = picture(2, 60, 70, dtype=dtype), picture(2, 1, 60, 70, seed=1)
    src = src.unsqueeze(1)
    settings = {"radius": radius, "sigma_color": 0.3, "sigma_space": float(radius), "mask": random_mask(60, 70)}
    weights = picture(2, 1, 60, 70, seed=2)
    settings["weights"] = torch.where(weights < 0.4, 0, weights)
    on_device = {name: v.cuda() if isinstance(v, torch.Tensor) else v for name, v in settings.items()}
    with fastseg.backend("triton"):
        actual = weighted_median(src.cuda(), guide.cuda(), **on_device)
    assert_weighted_median(actual.cpu(), src, guide, **settings)


def test_empty_mask_and_another_stream():
    src, guide = picture(200, 300).cuda(), picture(200, 300, seed=1).cuda()
    assert torch.equal(weighted_median(src, guide, mask=torch.zeros_like(src, dtype=torch.bool)), src)
    mask = random_mask(200, 300).cuda()
    expected = weighted_median(src, guide, mask=mask, **SETTINGS)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = weighted_median(src, guide, mask=mask, **SETTINGS)
    stream.synchronize()
    assert torch.equal(expected, other)
