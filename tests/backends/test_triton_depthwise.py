"""Triton kernels of the depthwise family against float64 PyTorch; in the interpreter, see test_triton_norm.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import fastseg
from fastseg import ops
from fastseg.backends.triton import depthwise
from tests.ops.depthwise_cases import Case, Results, extended, gradients, square, torch_conv
from tests.support import assert_within_budget, in_layout

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles and parts for small images, and outputs that hold NaN before."""
    monkeypatch.setattr(depthwise, "TILE_ELEMENTS", 128)
    monkeypatch.setattr(depthwise, "MOST_PARTS", 2)
    allocate = depthwise.new_output
    monkeypatch.setattr(depthwise, "new_output", lambda *a: allocate(*a).fill_(float("nan")))


CASES = (
    square(2, 9, 3, channels=3),
    square(2, 7, 3, stride=2, multiplier=2, channels=2),
    Case((4, 5, 6), (2, 1, 3), (1, 2, 3), (0, 1, 2), (1, 1, 2), batch=1, channels=2),
)


@pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU; see the interpreter's run")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_against_wider_arithmetic(case: Case, layout: str, dtype: torch.dtype) -> None:
    device = "cpu" if INTERPRETED else "cuda"
    inputs = case.inputs(dtype)
    conv = {2: ops.depthwise_conv2d, 3: ops.depthwise_conv3d}[len(case.image)]

    def run(function, device: str) -> Results:
        x, weight, bias, grad = (t.to(device) for t in inputs)
        leaves = [in_layout(x, layout).detach(), weight.clone(), bias.clone()]
        for leaf in leaves:
            leaf.requires_grad_()
        return gradients(function(*leaves), leaves, grad)

    with fastseg.backend("triton"):
        fused = run(lambda x, w, b: conv(x, w, b, **case.geometry), device)
    peer = run(lambda x, w, b: torch_conv(case, x, w, b), "cpu")
    exact, size = extended(case, inputs), extended(case, inputs, magnitude=True)
    for name, actual, truth, theirs, terms in zip(Results._fields, fused, exact, peer, size, strict=True):
        assert_within_budget(actual.cpu(), truth, theirs, name, terms=terms.max().item())


@pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU; see the interpreter's run")
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_transposed(layout: str) -> None:
    device = "cpu" if INTERPRETED else "cuda"
    x, weight, bias = (torch.randn(s, dtype=torch.float64, device=device) for s in ((2, 3, 4, 5), (3, 1, 3, 3), (3,)))
    arguments = {"stride": 2, "padding": 1, "output_padding": 1}
    with fastseg.backend("triton"):
        y = ops.depthwise_conv_transpose2d(in_layout(x, layout), weight, bias, **arguments)
    theirs = torch.nn.functional.conv_transpose2d(x, weight, bias, **arguments, groups=3)
    torch.testing.assert_close(y, theirs)
