"""The Triton kernels of the wls family against direct solves; in the interpreter, see test_triton_norm.py."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import fastseg
from fastseg.backends import cpu_wls
from fastseg.backends.triton import wls, wls_setup
from fastseg.ops import WLSConvergenceError, WLSSystem, wls_filter, wls_solve
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels, scan_by_doubling
from tests.ops.test_wls import direct, image, largest_error
from tests.support import rerun


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter is slow by the program; and small images have levels only where the last one is small."""
    if INTERPRETED:
        scan_by_doubling(monkeypatch)
        monkeypatch.setattr(wls_setup, "PROGRAMS", 1)
    monkeypatch.setattr(wls_setup, "DENSE_PIXELS", 12)
    monkeypatch.setattr(wls, "_loaded", set())  # other constants make other kernels
    monkeypatch.setattr(wls_setup, "_kept", [])  # and other levels


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    empty_like, new_empty = torch.empty_like, torch.Tensor.new_empty
    nan = float("nan")
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(nan))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(nan))


def tensor(*args, **kwargs) -> Tensor:
    return torch.from_numpy(image(*args, **kwargs)).to(DEVICE)


def check(shape: tuple[int, int], kind: str = "noise", lambda_: float = 1.0, tol: float = 1e-7) -> int:
    """Against the direct solve; the steps."""
    guide, src = tensor(shape, kind), tensor(shape, seed=1)
    with fastseg.backend("triton"):
        result = wls_solve(src, guide, lambda_=lambda_, tol=tol)
    assert result.residual <= tol
    exact = direct(src.cpu().numpy(), guide.cpu().numpy(), lambda_, 1.2, 1e-4)
    assert np.abs(result.solution.cpu().numpy() - exact).max() <= largest_error(src.cpu().numpy(), tol)
    return result.iterations


@runs_kernels
@pytest.mark.parametrize("shape", ((1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (2, 3), (9, 33)), ids=str)
def test_against_a_direct_solve(shape):
    check(shape)


@runs_kernels
@pytest.mark.parametrize(
    ("shape", "kind", "lambda_"), (((17, 33), "steps", 1.0), ((24, 40), "noise", 64.0), ((24, 40), "smooth", 64.0))
)
def test_steps_are_those_of_the_cpu(shape, kind, lambda_, monkeypatch):
    monkeypatch.setattr(wls, "CHECK_STEPS", 1)
    tol = 1e-6
    steps = check(shape, kind, lambda_, tol)
    # Level 0 has rows as lines here and columns there.
    guide, src = tensor(shape, kind).T.cpu(), tensor(shape, seed=1).T.cpu()
    _, on_cpu, _ = cpu_wls.wls_solve(cpu_wls.wls_setup(guide, lambda_, 1.2, 1e-4), src[None], tol, 500)
    assert abs(steps - on_cpu[0]) <= 2


@runs_kernels
@pytest.mark.parametrize("shape", ((1, 40), (5, 21)), ids=str)
def test_lines_longer_than_a_block(shape, monkeypatch):
    monkeypatch.setattr(wls_setup, "LINE_BLOCK", 8)
    check(shape, "steps")


@runs_kernels
def test_sums_in_many_slots(monkeypatch):
    monkeypatch.setattr(wls, "BLOCK", 32)
    monkeypatch.setattr(wls, "MAX_SLOTS", 3)
    check((9, 33))


@runs_kernels
def test_a_small_image_is_solved_by_its_inverse(monkeypatch):
    monkeypatch.setattr(wls_setup, "DENSE_PIXELS", 512)
    assert check((11, 13), "steps", 64.0, 1e-6) <= 4


@runs_kernels
def test_factors_of_a_long_line_are_those_of_a_loop():
    """A scan of fractions against the recurrence itself, in float64, with links from 1e-3 to 1e4 lambda."""
    random = np.random.default_rng(0)
    guide = torch.from_numpy(random.choice([0.0, 0.5, 0.51, 1.0], (1, 60))).to(DEVICE)
    made = wls_setup.wls_setup(guide, 64.0, 1.2, 1e-4).hierarchy
    link = made.next[0].double().tolist()
    excess = 1.0
    for i, (factor, inverse) in enumerate(
        zip(made.levels[0].factor[0].tolist(), made.levels[0].inverse[0].tolist(), strict=True)
    ):
        pivot = excess + link[i]
        assert inverse == pytest.approx(1 / pivot, rel=3e-6)
        assert factor == pytest.approx(link[i] / pivot, rel=3e-6)
        excess = 1.0 + link[i] * excess / pivot


@runs_kernels
def test_weight_of_every_kind_of_neighbours():
    """Two pixels have a closed solution; links across lines and along one are those of the CPU's test."""
    random = np.random.default_rng(3)
    low = np.concatenate([random.random(20), [0, 0, 0.5, 1e-8, 0, 1, 254, 1e6, 1e20, 1e22]])
    high = np.concatenate([low[:20] * (1 + 10.0 ** random.uniform(-7, 1, 20)), [0, 1, 0.5, 1, 1e-12, 1, 255, 1e6 + 1]])
    high = np.concatenate([high, [0, 0]])
    expected = 1 / (np.abs(np.log(low + 2.2e-16) - np.log(high + 2.2e-16)) ** 1.2 + 1e-4)
    guide = torch.from_numpy(np.stack((low, high))).to(DEVICE)
    across = wls_setup.wls_setup(guide, 1.0, 1.2, 1e-4).hierarchy.levels[0].links.across[0]
    np.testing.assert_allclose(across.cpu().numpy(), expected, rtol=4e-6)
    along = wls_setup.wls_setup(guide.T, 1.0, 1.2, 1e-4).hierarchy.next[:, 0]
    np.testing.assert_allclose(along.cpu().numpy(), expected, rtol=4e-6)


@runs_kernels
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_a_system_serves_several_sources(dtype):
    guide, src = tensor((6, 9)).to(dtype), tensor((2, 6, 9), seed=1).to(dtype)
    with fastseg.backend("triton"):
        system = WLSSystem(guide)
        together = system.solve(src, tol=1e-6).solution
        assert together.dtype == dtype and together.device == src.device
        assert torch.equal(system.solve(src[1], tol=1e-6).solution, together[1])
    exact = direct(src[0].cpu().numpy(), guide.cpu().numpy(), 1.0, 1.2, 1e-4)
    assert np.abs(together[0].cpu().numpy() - exact).max() <= largest_error(src[0].cpu().numpy(), 1e-6)


@runs_kernels
def test_memory_goes_with_the_last_reference():
    """Not when the garbage collector comes: a system holds 70 bytes a pixel."""
    guide = tensor((4, 7))
    gc.disable()
    try:
        with fastseg.backend("triton"):
            system = WLSSystem(guide)
            system.solve(guide)
        (made,) = system._systems
        ((workspace,),) = made.idle.values()
        gone = weakref.ref(made), weakref.ref(workspace), weakref.ref(made.hierarchy)
        del system, made, workspace
        assert [reference() for reference in gone] == [None] * 3
    finally:
        gc.enable()


@runs_kernels
def test_buffers_of_one_solve_serve_the_next_guide():
    """The same bits as in buffers of its own; another size, and a second system at the same time, have theirs."""
    guides = [tensor((5, 6), kind) for kind in ("noise", "steps")]
    with fastseg.backend("triton"):
        expected = [WLSSystem(guide).solve(guide, tol=1e-3).solution for guide in guides]
        assert not wls_setup._kept
        assert torch.equal(wls_filter(guides[0], tol=1e-3), expected[0])
        ((place, kept),) = wls_setup._kept
        assert torch.equal(wls_filter(torch.stack(guides), tol=1e-3), torch.stack(expected))
        assert wls_setup._kept == [(place, kept)]

        wls_filter(tensor((3, 5)), tol=0.5)
        assert [size for (_, _, size), _ in wls_setup._kept] == [(5, 6), (3, 5)]
        one, two = (wls_setup.wls_setup(guide, 1.0, 1.2, 1e-4, once=True) for guide in guides)
        assert one is kept and two is not kept
        fastseg.release_gpu_cache()
        assert not wls_setup._kept


@runs_kernels
def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(wls_setup, "KEPT_PIXELS", 30)
    with fastseg.backend("triton"):
        for shape in ((3, 4), (3, 5), (4, 3), (6, 6)):
            wls_filter(tensor(shape), tol=0.5)
    assert [size for (_, _, size), _ in wls_setup._kept] == [(3, 5), (4, 3)]


@runs_kernels
def test_what_leaves_an_image_as_it_is():
    src = tensor((7, 9))
    with fastseg.backend("triton"):
        torch.testing.assert_close(wls_filter(src, lambda_=0.0, tol=1e-14), src, rtol=1e-14, atol=0)
        flat = torch.full_like(src, 0.7)
        torch.testing.assert_close(wls_filter(flat, src, tol=1e-10), flat, rtol=1e-7, atol=0)
        zero = torch.zeros_like(src)
        assert torch.equal(wls_filter(zero, src), zero)


@runs_kernels
def test_gradient_is_the_solve_of_the_gradient():
    guide, src, grad = tensor((4, 7)), tensor((4, 7), seed=1), tensor((4, 7), seed=2)
    with fastseg.backend("triton"):
        leaf = src.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(wls_filter(leaf, guide, tol=1e-7), leaf, grad)
        assert torch.equal(gradient, wls_filter(grad, guide, tol=1e-7))


@runs_kernels
def test_not_reaching_the_tolerance_is_never_silent():
    src = tensor((9, 33), "steps")
    with fastseg.backend("triton"), pytest.raises(WLSConvergenceError, match="after 3 steps, expected at most tol"):
        wls_filter(src, max_iterations=3)


@runs_kernels
@pytest.mark.parametrize("dense", (12, 512))
@pytest.mark.parametrize("lambda_", (1e14, 1e30))
def test_a_system_that_cannot_be_solved_ends(dense, lambda_, monkeypatch):
    """Links of 1e4 lambda beside row sums of 1: not even float64 holds that."""
    monkeypatch.setattr(wls_setup, "DENSE_PIXELS", dense)
    with fastseg.backend("triton"), pytest.raises(WLSConvergenceError):
        wls_filter(tensor((6, 7)), lambda_=lambda_, max_iterations=5)
