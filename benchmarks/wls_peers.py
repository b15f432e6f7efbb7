"""What solves the WLS system today: sparse direct and iterative solvers, on a matrix that is already put together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.sparse.linalg

from fastseg.ops import WLSSystem, wls_filter


def matrix(guide: np.ndarray, lambda_: float, alpha: float, eps: float = 1e-4) -> sparse.csr_matrix:
    """I + lambda L of docs/wls.md."""
    height, width = guide.shape
    log = np.log(guide.astype(np.float64) + 2.2e-16)
    right, below = np.zeros(guide.shape), np.zeros(guide.shape)
    right[:, :-1] = lambda_ / (np.abs(np.diff(log, axis=1)) ** alpha + eps)
    below[:-1] = lambda_ / (np.abs(np.diff(log, axis=0)) ** alpha + eps)
    diagonal = 1 + right + below
    diagonal[:, 1:] += right[:, :-1]
    diagonal[1:] += below[:-1]
    flat_right, flat_below = right.ravel()[:-1], below.ravel()[: (height - 1) * width]
    return sparse.diags(
        [diagonal.ravel(), -flat_right, -flat_right, -flat_below, -flat_below], [0, 1, -1, width, -width]
    ).tocsr()


def fastseg_first(src: np.ndarray, lambda_: float, alpha: float, tol: float) -> Callable[[], np.ndarray]:
    return lambda: wls_filter(src, lambda_=lambda_, alpha=alpha, tol=tol)


def fastseg_second(src: np.ndarray, lambda_: float, alpha: float, tol: float) -> Callable[[], np.ndarray]:
    """A system that has been set up, for another source than the one it was set up with."""
    system = WLSSystem(src, lambda_, alpha)
    other = np.ascontiguousarray(src[::-1])
    return lambda: system.solve(other, tol=tol).solution


def fastseg_three(src: np.ndarray, lambda_: float, alpha: float, tol: float) -> Callable[[], np.ndarray]:
    """Three sources side by side, such as the channels of a colour image; the first one's solution."""
    sources = np.stack([src, src[::-1], src[:, ::-1]])
    return lambda: wls_filter(sources, src, lambda_=lambda_, alpha=alpha, tol=tol)[0]


def spsolve(src: np.ndarray, lambda_: float, alpha: float, tol: float) -> Callable[[], np.ndarray]:
    system, source = matrix(src, lambda_, alpha).tocsc(), src.astype(np.float64).ravel()
    return lambda: scipy.sparse.linalg.spsolve(system, source)


def ruge_stueben(src: np.ndarray, lambda_: float, alpha: float, tol: float) -> Callable[[], np.ndarray]:
    pyamg = pytest.importorskip("pyamg")
    system, source = matrix(src, lambda_, alpha), src.astype(np.float64).ravel()
    return lambda: pyamg.ruge_stuben_solver(system).solve(source, tol=tol, accel="cg", maxiter=500)


def diagonal_gradients(src: np.ndarray, lambda_: float, alpha: float, tol: float) -> Callable[[], np.ndarray]:
    system, source = matrix(src, lambda_, alpha), src.astype(np.float64).ravel()
    inverse = sparse.diags(1 / system.diagonal())
    return lambda: scipy.sparse.linalg.cg(system, source, rtol=tol, M=inverse, maxiter=20000)[0]


#: name -> what makes it ready
WLS_PEERS = {
    "fastseg": fastseg_first,
    "fastseg, second source": fastseg_second,
    "fastseg, three sources": fastseg_three,
    "PyAMG Ruge-Stueben CG": ruge_stueben,
    "SciPy CG, diagonal": diagonal_gradients,
    "SciPy spsolve": spsolve,
}
