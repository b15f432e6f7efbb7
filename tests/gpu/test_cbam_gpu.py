"""Channel and spatial attention on a GPU: against the reference in float64, and what a launch owes to CUDA."""

from __future__ import annotations

import pytest
import torch

import fastseg
from tests.ops.cbam_cases import CASES, exact, gradients, parameters_of, sizes_of_terms
from tests.support import DTYPES, assert_within_budget, in_layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("full_precision"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SHAPES = ((2, 5, 9, 11), (1, 70, 3, 500), (2, 64, 128, 128), (1, 32, 33, 40, 37), (4, 512, 16, 16))


def inputs_of(case: str, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> list[torch.Tensor]:
    """The gradient of y, then x and the parameters."""
    generator = torch.Generator().manual_seed(sum(shape))
    wide = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    with torch.device("cuda"):  # for what in_layout itself allocates
        x, grad = (
            in_layout(
                torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to("cuda", dtype), layout
            )
            for _ in range(2)
        )
    return [grad, x, *[t.to(dtype).to("cuda", wide) for t in parameters_of(case, shape, torch.float64)]]


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "channel_slice", "permuted"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", tuple(CASES))
def test_against_the_reference(case, shape, dtype, layout):
    grad, *inputs = inputs_of(case, shape, dtype, layout)
    with fastseg.backend("triton"):
        ours = gradients(CASES[case].fused, inputs, grad)
    # The reference on the CPU, where the gradient of a maximum is sure to go to the first index.
    on_cpu, grad = [t.cpu() for t in inputs], grad.cpu()
    truth = exact(case, on_cpu, grad)
    sizes = sizes_of_terms(case, on_cpu, grad, truth)
    with fastseg.backend("reference"):
        peer = gradients(CASES[case].fused, on_cpu, grad)
    for name, a, t, p, size in zip(("y", "dx", *CASES[case].parameters), ours, truth, peer, sizes, strict=True):
        # Sums in another order than torch's, and the gates' errors twice.
        assert_within_budget(a.cpu(), t, p, f"{case} {name}", terms=8 * max(size, t.abs().max().item()))


@pytest.mark.parametrize("case", tuple(CASES))
def test_two_runs_give_the_same_bits(case):
    """y; the gradients of the small convolution are the vendor's."""
    _, *inputs = inputs_of(case, (2, 64, 128, 128), torch.float32, "contiguous")
    with fastseg.backend("triton"), torch.no_grad():
        assert torch.equal(CASES[case].fused(*inputs), CASES[case].fused(*inputs))


def test_another_stream_and_a_captured_graph():
    _, *inputs = inputs_of("cbam", (2, 32, 64, 64), torch.float32, "contiguous")
    with fastseg.backend("triton"), torch.no_grad():
        expected = CASES["cbam"].fused(*inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            other = CASES["cbam"].fused(*inputs)
        stream.synchronize()
        assert torch.equal(other, expected)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = CASES["cbam"].fused(*inputs)
        graph.replay()
        torch.cuda.synchronize()
    torch.testing.assert_close(captured, expected)
