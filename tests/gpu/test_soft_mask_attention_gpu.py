"""soft_mask_attention on a GPU: against wider arithmetic, and what a launch owes to CUDA."""

from __future__ import annotations

import pytest
import torch

import fastseg
from fastseg.ops import soft_mask_attention
from tests.ops.test_soft_mask_attention import SHAPES, drawn, extended, gradients, torch_ops
from tests.support import DTYPES, LAYOUTS, assert_within_budget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize("one", (False, True))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", (*SHAPES, (1, 32, 64, 64, 64), (4, 64, 200, 200)), ids=str)
def test_forward_and_backward_match_wider_arithmetic(shape, dtype, layout, one, poisoned):
    *inputs, grad = drawn(shape, one, dtype, layout)
    on_gpu = [t.cuda() for t in inputs]
    ours, peer = gradients(soft_mask_attention, on_gpu, grad.cuda()), gradients(torch_ops, on_gpu, grad.cuda())
    summands = (grad.double() * inputs[0].double() / 4).square().sum(1).sqrt().max().item()
    for name, a, t, p in zip(("y", "dtrunk", "dmask"), ours, extended(inputs, grad), peer, strict=True):
        assert_within_budget(a.cpu(), t, p.cpu(), name, terms=summands if name == "dmask" else 0.0)


def test_runs_triton(capsys):
    assert "triton     runs" in fastseg.explain("soft_mask_attention", torch.ones(1, 2, 3, device="cuda"))


def test_another_stream():
    trunk, mask = (torch.randn(2, 8, 64, 64, device="cuda") for _ in range(2))
    expected = soft_mask_attention(trunk, mask)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = soft_mask_attention(trunk, mask)
    stream.synchronize()
    assert torch.equal(other, expected)


@pytest.mark.parametrize("one", (False, True))
def test_more_than_two_to_the_31_elements(one):
    trunk = torch.randn(1, 4, 600, 1024, 1024, dtype=torch.bfloat16, device="cuda")
    mask = torch.zeros((1, 1, *trunk.shape[2:]) if one else trunk.shape, dtype=torch.bfloat16, device="cuda")
    y = soft_mask_attention(trunk, mask)
    assert torch.equal(y[0, -1, -1], (1.5 * trunk[0, -1, -1].float()).bfloat16())
