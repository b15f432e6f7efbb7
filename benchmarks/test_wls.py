"""Exact WLS filtering beside sparse solvers, and how its time grows with the image, lambda and alpha."""

from __future__ import annotations

import pytest

from benchmarks.conftest import rounds_for
from benchmarks.images import grey_photograph

peers = pytest.importorskip("benchmarks.wls_peers", reason="needs scipy")

TOL = 1e-6
MEGAPIXEL = (1024, 1024)
#: Of about 0.1, 0.25, 1, 4 and 16 megapixels.
SIZES = ((300, 350), (512, 512), MEGAPIXEL, (2048, 2048), (4096, 4096))


def run(benchmark, peer: str, size: tuple[int, int], lambda_: float, alpha: float, case: str) -> None:
    name, picture = grey_photograph(*size)
    function = peers.WLS_PEERS[peer](picture, lambda_, alpha, TOL)
    benchmark.group = case
    # SciPy's take half a minute a call.
    benchmark.pedantic(function, rounds=1 if peer.startswith("SciPy") else rounds_for(function, 11))
    benchmark.extra_info.update(case=case, shape=f"{size[0]}x{size[1]} ({name})", peer=peer, family="wls")


@pytest.mark.parametrize("peer", peers.WLS_PEERS)
def test_megapixel(benchmark, peer):
    run(benchmark, peer, MEGAPIXEL, 1.0, 1.2, f"lambda 1, alpha 1.2, residual {TOL:g}")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_size(benchmark, size):
    run(benchmark, "fastseg", size, 1.0, 1.2, "growing image")


@pytest.mark.parametrize("alpha", (1.2, 1.6, 2.0))
@pytest.mark.parametrize("lambda_", (0.1, 1.0, 8.0, 64.0, 1000.0))
def test_parameters(benchmark, lambda_, alpha):
    run(benchmark, "fastseg", MEGAPIXEL, lambda_, alpha, f"lambda {lambda_:g}, alpha {alpha:g}")
