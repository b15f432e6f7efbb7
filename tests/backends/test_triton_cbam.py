"""The Triton kernels of channel and spatial attention against float64; in the interpreter, see test_triton_norm.py."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg.backends.triton import cbam as launcher
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.ops.cbam_cases import CASES, exact, gradients, parameters_of, sizes_of_terms
from tests.support import DTYPES, assert_within_budget, in_layout, pairwise, rerun


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(autouse=True)
def small_tiles_and_poisoned_outputs(monkeypatch):
    monkeypatch.setattr(launcher, "TILE_BYTES", 2048)
    monkeypatch.setattr(launcher, "POOL_PROGRAMS", 3)
    for module, name in ((torch, "empty_like"), (torch, "empty"), (Tensor, "new_empty")):
        allocate = getattr(module, name)

        def poisoned(*args, _allocate=allocate, **kwargs):
            out = _allocate(*args, **kwargs)
            return out.fill_(float("nan") if out.is_floating_point() else 77)

        monkeypatch.setattr(module, name, poisoned)


@runs_kernels
@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    pairwise(
        ((2, 5, 9, 11), (1, 70, 3, 8), (2, 3, 2, 5, 33)), DTYPES, ("contiguous", "channels_last", "channel_slice")
    ),
    ids=str,
)
def test_against_float64(shape, dtype, layout):
    generator = torch.Generator().manual_seed(sum(shape))
    wide = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    x, grad = (torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype) for _ in range(2))
    for case in CASES:
        parameters = [t.to(dtype).to(DEVICE, wide) for t in parameters_of(case, shape, torch.float64)]
        with fastseg.backend("triton"):
            ours = gradients(CASES[case].fused, [in_layout(x, layout), *parameters], grad)
        truth = exact(case, [x, *parameters], grad)
        sizes = sizes_of_terms(case, [x, *parameters], grad, truth)
        with fastseg.backend("reference"):
            peer = gradients(CASES[case].fused, [x, *parameters], grad)
        for name, a, t, p, size in zip(("y", "dx", *CASES[case].parameters), ours, truth, peer, sizes, strict=True):
            # Sums in another order than torch's, and the gates' errors twice.
            assert_within_budget(a, t, p, f"{case} {name}", terms=8 * max(size, t.abs().max().item()))


@runs_kernels
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_ties_and_nan(layout):
    x = torch.randint(0, 3, (2, 9, 5, 40), generator=torch.Generator().manual_seed(0)).float().to(DEVICE)
    grad = torch.randn(x.shape).to(DEVICE)
    for case in ("spatial", "channel"):
        parameters = [t.to(DEVICE) for t in parameters_of(case, x.shape, torch.float32)]
        with fastseg.backend("triton"):
            ours = gradients(CASES[case].fused, [in_layout(x, layout), *parameters], grad)[1]
        theirs = gradients(CASES[case].peer, [x, *parameters], grad)[1]
        torch.testing.assert_close(ours, theirs)
    broken = x.clone()
    broken[1, 2, 3, 4] = float("nan")
    parameters = [t.to(DEVICE) for t in parameters_of("spatial", x.shape, torch.float32)]
    with fastseg.backend("triton"):
        y = CASES["spatial"].fused(in_layout(broken, layout), *parameters)
    assert y[1, :, 2:5, 3:6].isnan().all() and y.isnan().sum() == 81
