"""The stereo side on tensors of the device, which the benchmarks of NumPy arrays leave out, beside what solves it there
and OpenCV's on the CPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastseg
from benchmarks.conftest import BesideCopy
from benchmarks.gpu import record
from benchmarks.stereo_pairs import pair_of
from fastseg import ops
from fastseg.stereo import StereoMatcher

if record.RUN is None:
    pytest.skip("python -m benchmarks.gpu runs these", allow_module_level=True)

SMOKE = record.RUN.smoke
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SLICES, HEIGHT, WIDTH = (4, 24, 32) if SMOKE else (64, 375, 450)
LARGE = (2, 24, 40) if SMOKE else (128, 1080, 1920)
SIDE = 32 if SMOKE else 1024


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE)


#: name -> the tensors of the call, and the call; the floor is the copy of the largest tensor that comes in or out
CALLS: dict[str, tuple[Callable[[], list[Tensor]], Callable[..., Any]]] = {
    "guided_filter, colour guide": (
        lambda: [drawn(SLICES, HEIGHT, WIDTH), drawn(3, HEIGHT, WIDTH, seed=1)],
        lambda src, guide: ops.guided_filter(guide, src, radius=9, eps=1e-4),
    ),
    "guided_filter, grey guide": (
        lambda: [drawn(SLICES, HEIGHT, WIDTH), drawn(HEIGHT, WIDTH, seed=1)],
        lambda src, guide: ops.guided_filter(guide, src, radius=9, eps=1e-4),
    ),
    "guided_filter of a full HD volume, colour guide": (
        lambda: [drawn(*LARGE), drawn(3, *LARGE[1:], seed=1)],
        lambda src, guide: ops.guided_filter(guide, src, radius=9, eps=1e-4),
    ),
    "guided_filter of a full HD volume, grey guide": (
        lambda: [drawn(*LARGE), drawn(*LARGE[1:], seed=1)],
        lambda src, guide: ops.guided_filter(guide, src, radius=9, eps=1e-4),
    ),
    "cross_scale_aggregate, 4 levels": (
        lambda: [drawn(*level.shape, seed=i) for i, level in enumerate(ops.cross_scale_shapes(SHAPE, 4, 0))],
        lambda *costs: ops.cross_scale_aggregate(costs),
    ),
    "matching_cost, AD, gradient and census": (
        lambda: [drawn(3, HEIGHT, WIDTH), drawn(3, HEIGHT, WIDTH, seed=1)],
        lambda left, right: ops.matching_cost(left, right, max_disparity=SLICES, census_weight=0.2),
    ),
    "winner_takes_all": (lambda: [drawn(SLICES, HEIGHT, WIDTH)], ops.winner_takes_all),
    "weighted_median, radius 9": (
        lambda: [drawn(HEIGHT, WIDTH), drawn(3, HEIGHT, WIDTH, seed=1)],
        lambda src, guide: ops.weighted_median(src, guide, radius=9),
    ),
    "fast_global_smoother": (
        lambda: [drawn(3, SIDE, SIDE), drawn(SIDE, SIDE, seed=1)],
        lambda src, guide: ops.fast_global_smoother(src, guide, lambda_=100.0, sigma=0.1),
    ),
    "wls_filter": (lambda: [drawn(SIDE, SIDE)], lambda src: ops.wls_filter(src, tol=1e-6)),
}
SHAPE = (SLICES, HEIGHT, WIDTH)
#: In plain torch they take seconds a call and more, or more memory than a card has.
NOT_EAGER = ("weighted_median, radius 9", "wls_filter", *(name for name in CALLS if "full HD" in name))


@pytest.mark.parametrize(("name", "peer"), [(n, p) for n in CALLS for p in ("fastseg", "eager")])
def test_call(beside_copy: BesideCopy, name: str, peer: str) -> None:
    if peer == "eager" and name in NOT_EAGER:
        pytest.skip("seconds a call")
    make, call = CALLS[name]
    tensors = make()
    with fastseg.backend("reference") if peer == "eager" else nullcontext():
        result = call(*tensors)
        results = [t for t in (result if isinstance(result, tuple) else (result,)) if torch.is_tensor(t)]
        largest = max((*tensors, *results), key=torch.numel)
        beside_copy("stereo on the device", name, peer, largest, lambda: call(*tensors))


@pytest.mark.parametrize("guide_channels", (1, 3))
def test_kornia_guided_filter(beside_copy: BesideCopy, guide_channels: int) -> None:
    filters = pytest.importorskip("kornia.filters")
    src = drawn(SLICES, HEIGHT, WIDTH)
    guide = drawn(1, guide_channels, HEIGHT, WIDTH, seed=1)
    name = f"guided_filter, {'grey' if guide_channels == 1 else 'colour'} guide"
    beside_copy("stereo on the device", name, "kornia", src, lambda: filters.guided_blur(guide, src[None], 19, 1e-4))


@pytest.mark.parametrize("guide_channels", (1, 3))
def test_opencv_guided_filter(benchmark, guide_channels: int) -> None:
    peers = pytest.importorskip("benchmarks.guided_filter_peers")
    pytest.importorskip("cv2.ximgproc", reason="needs opencv-contrib-python-headless")
    src, guide = drawn(SLICES, HEIGHT, WIDTH).cpu().numpy(), drawn(3, HEIGHT, WIDTH, seed=1).cpu().numpy()
    make, *_ = peers.GUIDED_FILTER_PEERS["OpenCV"]
    function = make(guide if guide_channels == 3 else guide[0], src, peers.Settings())
    name = f"guided_filter, {'grey' if guide_channels == 1 else 'colour'} guide"
    shape = "x".join(map(str, src.shape))
    benchmark.extra_info.update(
        case=name, shape=shape, peer="OpenCV on the CPU", family="stereo on the device", host_clock=True
    )
    benchmark.pedantic(function, rounds=5)


def test_conjugate_gradients_on_the_device(beside_copy: BesideCopy) -> None:
    """CuPy's, with cuSPARSE and the diagonal as preconditioner, to the same residual; its matrix is there already."""
    cupy = pytest.importorskip("cupy")
    sparse = pytest.importorskip("cupyx.scipy.sparse")
    linalg = pytest.importorskip("cupyx.scipy.sparse.linalg")
    matrix = pytest.importorskip("benchmarks.wls_peers", reason="needs scipy").matrix
    src = drawn(SIDE, SIDE)
    system = sparse.csr_matrix(matrix(src.cpu().numpy(), 1.0, 1.2))
    right = cupy.asarray(src.cpu().numpy().astype(np.float64).ravel())
    inverse = sparse.diags(1 / system.diagonal())
    residual = {"rtol" if "rtol" in inspect.signature(linalg.cg).parameters else "tol": 1e-6}

    def solve() -> object:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            return linalg.cg(system, right, M=inverse, maxiter=20000, **residual)

    beside_copy("stereo on the device", "wls_filter", "CuPy CG, diagonal", src, solve)


@pytest.mark.parametrize("preset", ("accurate", "fast"))
@pytest.mark.parametrize("scene", ("teddy", "rendered"))
def test_pipeline(benchmark: Any, scene: str, preset: str) -> None:
    """From a pair on the device to its disparities; the rendered pair is there everywhere."""
    pair = pair_of(scene)
    images = [torch.from_numpy(image).movedim(-1, 0).contiguous().to(DEVICE) for image in (pair.left, pair.right)]
    matcher = StereoMatcher.preset(preset, max_disparity=pair.max_disparity)
    benchmark.extra_info.update(
        case=f"pipeline, {preset}, {scene}",
        shape=pair.shape,
        peer="fastseg",
        family="stereo on the device",
        host_clock=True,
    )
    benchmark.pedantic(lambda: matcher.match(*images))


@pytest.mark.parametrize("scene", ("teddy", "rendered"))
def test_opencv_pipeline(benchmark: Any, scene: str) -> None:
    peers = pytest.importorskip("benchmarks.stereo_peers", reason="needs opencv-contrib-python-headless")
    pair = pair_of(scene)
    ready = peers.STEREO_PEERS["OpenCV SGBM + WLS"](pair)
    benchmark.extra_info.update(
        case=f"pipeline, accurate, {scene}",
        shape=pair.shape,
        peer="OpenCV SGBM + WLS on the CPU",
        family="stereo on the device",
        host_clock=True,
    )
    benchmark.pedantic(ready.match)
