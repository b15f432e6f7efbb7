"""The ASPP ops on a GPU: what runs there by itself, and the Triton kernels where they are asked for."""

from __future__ import annotations

import pytest
import torch

import fastseg
from fastseg.ops import separable_aspp_conv2d
from tests.ops.context_cases import CASES, Case, magnitudes, run
from tests.support import assert_within_budget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("full_precision"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

BACKENDS = (("dense", "reference"), ("separable", "reference"), ("separable", "triton"))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind,backend", BACKENDS)
def test_against_wider_arithmetic(kind: str, backend: str, case: Case, layout: str, dtype: torch.dtype) -> None:
    inputs = case.inputs(dtype, kind == "separable")
    theirs = getattr(case, f"{kind}_of_torch")
    on_card = [t.cuda() for t in inputs]
    exact, peer = run(theirs, [t.double() for t in inputs]), run(theirs, on_card)
    with fastseg.backend(backend):
        actual = run(getattr(case, kind), on_card, layout)
    for i, (one, truth, other, size) in enumerate(zip(actual, exact, peer, magnitudes(theirs, inputs), strict=True)):
        assert_within_budget(one.cpu(), truth, other.cpu(), f"{kind} result {i}", terms=size)


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
def test_same_bits_again_and_current_stream(layout: torch.memory_format) -> None:
    x = torch.randn(2, 64, 40, 41, device="cuda").to(memory_format=layout)
    filters = [torch.randn(64, 1, 3, 3, device="cuda") for _ in range(3)]
    weights = [torch.randn(32, 64, 1, 1, device="cuda") for _ in range(3)]
    with fastseg.backend("triton"):
        y = separable_aspp_conv2d(x, filters, weights, dilations=(1, 6, 12))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            again = separable_aspp_conv2d(x, filters, weights, dilations=(1, 6, 12))
        stream.synchronize()
    assert torch.equal(y, again) and y.is_contiguous(memory_format=layout)


def test_what_runs_by_itself(capsys) -> None:
    x = torch.randn(1, 2, 3, 4, device="cuda")
    assert "reference  runs" in fastseg.explain("aspp_conv2d", x)
    assert "reference  runs" in fastseg.explain("separable_aspp_conv2d", x)
