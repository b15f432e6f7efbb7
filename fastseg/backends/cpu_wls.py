"""Launches the CPU kernels of the wls family. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends import memory
from fastseg.backends.views import ELEMENT


def wls_setup(guide: Tensor, lambda_: float, alpha: float, eps: float, once: bool = False) -> Tensor:
    """The multigrid hierarchy of one guide (H, W), float32 or float64, as one opaque tensor.

    ``once``: for one call of wls_solve. Nothing is different then: ``memory`` keeps what is large.
    """
    height, width = guide.shape
    guide = guide.contiguous()
    floats, scratch_floats, work_floats = _C.wls_plan(height, width)
    # As large as the workspace of a solve, which then gets this very memory, page faults and all.
    system, scratch = memory.empty(floats), memory.empty(max(scratch_floats, work_floats))
    _C.wls_setup(
        height,
        width,
        guide.data_ptr(),
        ELEMENT[guide.dtype],
        lambda_,
        alpha,
        eps,
        system.data_ptr(),
        scratch.data_ptr(),
        torch.get_num_threads(),
    )
    return system


def wls_solve(system: Tensor, src: Tensor, tol: float, max_iterations: int) -> tuple[Tensor, list[int], list[float]]:
    """Solutions for src (C, H, W), float32 or float64, with the steps and the relative residual of each."""
    src = src.contiguous()
    sources, height, width = src.shape
    work = memory.empty(_C.wls_plan(height, width)[2] * min(sources, _C.wls_together))
    solution = memory.empty_like(src)
    steps, residuals = torch.zeros(sources, dtype=torch.int64), torch.zeros(sources, dtype=torch.float64)
    _C.wls_solve(
        sources,
        height,
        width,
        system.data_ptr(),
        src.data_ptr(),
        solution.data_ptr(),
        ELEMENT[src.dtype],
        work.data_ptr(),
        tol,
        max_iterations,
        steps.data_ptr(),
        residuals.data_ptr(),
        torch.get_num_threads(),
    )
    return solution, steps.tolist(), residuals.tolist()
