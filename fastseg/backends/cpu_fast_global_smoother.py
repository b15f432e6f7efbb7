"""Launches the CPU kernel of the fast global smoother. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.images import dense_rows, images
from fastseg.backends.memory import new_output


def fast_global_smoother(
    src: Tensor, guide: Tensor, lambda_: float, sigma: float, iterations: int, attenuation: float, adjoint: bool
) -> Tensor:
    src, guide = dense_rows(src), dense_rows(guide)
    batch, channels, height, width = src.shape
    dst = new_output(src, channels, (height, width), "rows")
    _C.fast_global_smoother(
        batch,
        channels,
        height,
        width,
        images(src),
        images(guide),
        guide.shape[1],
        images(dst),
        lambda_,
        sigma,
        attenuation,
        iterations,
        adjoint,
        torch.get_num_threads(),
    )
    return dst
