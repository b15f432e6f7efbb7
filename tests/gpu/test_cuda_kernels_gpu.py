"""Every variant of every CUDA C++ kernel gives finite numbers; compute-sanitizer looks at what they read and write."""

from __future__ import annotations

import pytest
import torch

import fastseg
from fastseg.backends import availability
from tests.gpu.cuda_kernels import Call, calls

CALLS = calls()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(availability.cuda_refusal() is not None, reason=str(availability.cuda_refusal())),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize(("family", "call"), [(f, call) for f, _, call in CALLS], ids=[f"{f} {n}" for f, n, _ in CALLS])
def test_is_finite(family: str, call: Call) -> None:
    torch.manual_seed(0)
    with fastseg.backend("cuda"):
        results = call("cuda")
        torch.cuda.synchronize()
    assert all(t.isfinite().all() for t in results)
