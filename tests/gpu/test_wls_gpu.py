"""wls_filter and WLSSystem on a GPU: against the CPU's kernel and direct solves, and what a solve owes to CUDA.

The cases are those of the CPU (tests/ops/test_wls.py). Small ones run in tests/backends/test_triton_wls.py too, which
takes the GPU where there is one.
"""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

import fastseg
from fastseg.backends import select
from fastseg.ops import WLSSystem, wls_filter, wls_solve
from tests.ops.test_wls import SETTINGS, direct, image, largest_error, smallest_tolerance

pytest.importorskip("triton")

from fastseg.backends.triton import wls, wls_setup

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SHAPES = ((1, 1), (1, 300), (300, 1), (2, 3), (17, 33), (64, 50), (129, 64))
LARGE = ((1024, 1024), (1023, 517), (450, 375), (3, 5000), (5000, 3))


def draw(shape: tuple[int, ...], kind: str = "noise", seed: int = 0) -> Tensor:
    return torch.from_numpy(image(shape, kind, seed)).cuda()


@pytest.fixture(autouse=True)
def kernels_of_these_sizes_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every test has a first step and a captured one."""
    monkeypatch.setattr(wls, "_loaded", set())


def test_triton_runs() -> None:
    assert select.choose("wls_filter", torch.ones(2, 3, device="cuda")).backend == "triton"


@pytest.mark.parametrize("kind", ("noise", "steps", "smooth"))
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_a_direct_solve(
    shape: tuple[int, int], setting: tuple[float, float, float], kind: str, poisoned: None
) -> None:
    guide, src = draw(shape, kind), draw(shape, seed=1)
    names = dict(zip(("lambda_", "alpha", "eps"), setting, strict=True))
    tol = smallest_tolerance(setting[0], setting[2])
    result = wls_solve(src, guide, tol=tol, **names)
    assert result.residual <= tol
    exact = direct(src.cpu().numpy(), guide.cpu().numpy(), *setting)
    assert np.abs(result.solution.cpu().numpy() - exact).max() <= largest_error(src.cpu().numpy(), tol)


@pytest.mark.parametrize(("kind", "lambda_"), (("noise", 1.0), ("steps", 1.0), ("smooth", 64.0)))
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_against_the_cpu(shape: tuple[int, int], kind: str, lambda_: float, poisoned: None) -> None:
    guide, src, tol = draw(shape, kind), draw(shape, seed=1), 1e-8
    result = wls_solve(src, guide, lambda_=lambda_, tol=tol)
    on_cpu = wls_solve(src.cpu(), guide.cpu(), lambda_=lambda_, tol=tol)
    turned = wls_solve(src.cpu().T, guide.cpu().T, lambda_=lambda_, tol=tol)  # its level 0 has lines as on the GPU
    size = src.cpu().numpy()
    assert (result.solution.cpu() - on_cpu.solution).abs().max() <= 2 * largest_error(size, tol)
    assert abs(result.iterations - turned.iterations) <= max(3, turned.iterations // 10)


@pytest.mark.parametrize("block", (64, 1024))
def test_long_lines_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch, poisoned: None) -> None:
    guide, src = draw((40, 3001), "steps"), draw((40, 3001), seed=1)
    expected = wls_filter(src, guide, tol=1e-9)
    monkeypatch.setattr(wls_setup, "LINE_BLOCK", block)
    wls._loaded.clear()
    wls_setup._kept.clear()
    assert (wls_filter(src, guide, tol=1e-9) - expected).abs().max() <= largest_error(src.cpu().numpy(), 1e-9)


def test_same_bits_every_time() -> None:
    guide, src = draw((300, 217), "steps"), draw((300, 217), seed=1)
    first, *others = (wls_filter(src, guide, tol=1e-8) for _ in range(4))
    assert all(torch.equal(first, other) for other in others)


def test_a_graph_serves_other_sources(poisoned: None) -> None:
    guide = draw((333, 256), "steps")
    system = WLSSystem(guide)
    sources = [draw((333, 256), seed=seed) for seed in range(3)]
    results = [system.solve(src, tol=1e-8).solution for src in sources]
    (made,) = system._systems
    ((workspace,),) = made.idle.values()
    graph = workspace.graph
    assert graph is not None
    for src, result in zip(sources, results, strict=True):
        assert torch.equal(system.solve(src, tol=1e-8).solution, result)
        assert torch.equal(wls_filter(src, guide, tol=1e-8), result)
    assert workspace.graph is graph
    assert torch.equal(system.solve(torch.stack(sources), tol=1e-8).solution, torch.stack(results))


def test_the_next_guide_of_a_size_replays_both_graphs(poisoned: None) -> None:
    shape = (321, 150)
    guides = [draw(shape, kind) for kind in ("steps", "noise", "smooth")]
    expected = [WLSSystem(guide).solve(guide, tol=1e-8).solution for guide in guides]
    wls_setup._kept.clear()
    for guide, result in zip(guides * 2, expected * 2, strict=True):
        assert torch.equal(wls_filter(guide, tol=1e-8), result)
    ((_, kept),) = wls_setup._kept
    ((workspace,),) = kept.idle.values()
    assert kept.graph is not None and workspace.graph is not None
    with torch.cuda.stream(torch.cuda.Stream()):  # which has a system of its own
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        assert torch.equal(wls_filter(guides[0], tol=1e-8), expected[0])
    assert len(wls_setup._kept) == 2


def test_steps_do_not_wait_for_the_device() -> None:
    guide = draw((256, 256))
    workspace = wls.Workspace(wls_setup.wls_setup(guide, 1.0, 1.2, 1e-4).hierarchy)
    workspace.solve(guide, 1e-6, 100)
    assert workspace.graph is not None
    torch.cuda.synchronize()
    previous = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        workspace.renew_residual(guide)
        for _ in range(3):
            workspace.run_step()
            workspace.step()
    finally:
        torch.cuda.set_sync_debug_mode(previous)


def test_on_a_side_stream_whose_input_is_late() -> None:
    guide, src = draw((200, 150), "steps"), draw((200, 150), seed=1)
    system = WLSSystem(guide)
    expected = system.solve(src).solution
    late = torch.ones_like(src)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(200_000_000)  # about 0.1 s
        late.copy_(src)
        found = system.solve(late).solution
        assert torch.equal(found, expected)


def test_threads_share_a_system() -> None:
    guide = draw((250, 130), "steps")
    system = WLSSystem(guide)
    sources = [draw((250, 130), seed=seed) for seed in range(4)]
    expected = [system.solve(src).solution for src in sources]
    wrong: list[int] = []

    def work(number: int, stream: torch.cuda.Stream) -> None:
        with torch.cuda.stream(stream):
            for _ in range(5):
                if not torch.equal(system.solve(sources[number]).solution, expected[number]):
                    wrong.append(number)

    torch.cuda.synchronize()
    shared = torch.cuda.Stream()
    streams = [shared, shared, torch.cuda.Stream(), torch.cuda.Stream()]
    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_goes_with_the_system() -> None:
    guide = draw((512, 512))
    wls_filter(guide)  # what libraries keep
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    gc.disable()  # reference counts alone must free it
    try:
        system = WLSSystem(guide)
        system.solve(guide)
        assert torch.cuda.memory_allocated() > before
        del system
        assert torch.cuda.memory_allocated() == before
    finally:
        gc.enable()


def test_gradient() -> None:
    guide, src, grad = draw((40, 33), "steps"), draw((40, 33), seed=1), draw((40, 33), seed=2)
    leaf = src.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(wls_filter(leaf, guide, tol=1e-9), leaf, grad)
    assert torch.equal(gradient, wls_filter(grad, guide, tol=1e-9))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16, torch.uint8), ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    src = (255 * draw((100, 90))).to(dtype)
    result = wls_filter(src)
    assert result.dtype == dtype and result.device == src.device
    exact = wls_filter(src.cpu().double(), tol=1e-9)
    step = 1.0 if dtype == torch.uint8 else torch.finfo(dtype).eps * 255
    assert (result.cpu().double() - exact).abs().max() <= 0.5 * step + 1e-2


def test_reference_agrees() -> None:
    guide, src = draw((30, 41), "steps"), draw((30, 41), seed=1)
    with fastseg.backend("reference"):
        expected = wls_filter(src, guide, tol=1e-9)
    torch.testing.assert_close(wls_filter(src, guide, tol=1e-9), expected, rtol=0, atol=2e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_device_of_src() -> None:
    src = draw((60, 70))
    expected = wls_filter(src)
    assert torch.equal(wls_filter(src.to("cuda:1")).cpu(), expected.cpu())
    assert torch.cuda.current_device() == 0
