"""fast_global_smoother on a GPU: against the reference in float64, and what a launch owes to CUDA."""

from __future__ import annotations

import pytest
import torch

import fastseg
from fastseg.ops import fast_global_smoother
from tests.support import assert_within_budget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SIZES = ((1, 1), (1, 700), (700, 1), (37, 53), (375, 450), (1500, 2100))


def images(height: int, width: int, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    src = torch.rand(channels, height, width, generator=generator)
    return src.cuda(), torch.rand(height, width, generator=generator).cuda()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_against_the_reference(size, dtype):
    src, guide = images(*size)
    src = src.to(dtype)
    with fastseg.backend("triton"):
        actual = fast_global_smoother(src, guide, lambda_=50.0, sigma=0.1)
    with fastseg.backend("reference"):
        exact = fast_global_smoother(src.double(), guide.double(), lambda_=50.0, sigma=0.1)
        peer = fast_global_smoother(src, guide, lambda_=50.0, sigma=0.1)
    assert_within_budget(actual, exact, peer, terms=1.0)


def test_gradient_is_the_references():
    src, guide = images(40, 60)
    src.requires_grad_()
    weights = torch.rand_like(src)
    gradients = []
    for name in ("triton", "reference"):
        with fastseg.backend(name):
            (gradient,) = torch.autograd.grad(
                (fast_global_smoother(src, guide, lambda_=20.0, sigma=0.2) * weights).sum(), src
            )
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_another_stream():
    src, guide = images(200, 300)
    expected = fast_global_smoother(src, guide, lambda_=5.0, sigma=0.1)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = fast_global_smoother(src, guide, lambda_=5.0, sigma=0.1)
    stream.synchronize()
    assert torch.equal(expected, other)
