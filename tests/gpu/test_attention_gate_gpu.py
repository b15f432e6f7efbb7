"""attention_gate on a GPU: against wider arithmetic, and what a launch owes to CUDA."""

from __future__ import annotations

import pytest
import torch

import fastseg
from fastseg.ops import attention_gate
from tests.ops.test_attention_gate import NAMES, SHAPES, drawn, extended, run, torch_ops
from tests.support import DTYPES, LAYOUTS, assert_within_budget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", (*SHAPES, ((1, 32, 48, 70), (50, 64), (50, 64)), ((1, 32, 48, 70), (50, 64), (25, 32))), ids=str
)
def test_forward_and_backward_match_wider_arithmetic(shape, dtype, layout, poisoned):
    tensors = drawn(*shape, dtype, layout)
    exact, terms, kink = extended(tensors)
    grad = tensors[-1].masked_fill(kink, 0).cuda()
    inputs = [t.cuda() for t in tensors[:-1]]
    ours, peer = run(attention_gate, inputs, grad), run(torch_ops, inputs, grad)
    for name, a, t, p, size in zip(NAMES, ours, exact, peer, terms, strict=True):
        assert_within_budget(a.cpu(), t, p.cpu(), name, terms=size)


def test_same_bits_every_time():
    *inputs, grad = (t.cuda() for t in drawn((2, 20, 12, 10), (70, 90), (35, 45), torch.float32, "contiguous"))
    first, second = (run(attention_gate, inputs, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_runs_triton_and_another_stream(capsys):
    *inputs, _ = (t.cuda() for t in drawn((2, 20, 12, 10), (70, 90), (70, 90), torch.float32, "contiguous"))
    assert "triton     runs" in fastseg.explain("attention_gate", inputs[0])
    expected = attention_gate(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = attention_gate(*inputs)
    stream.synchronize()
    assert torch.equal(other, expected)
