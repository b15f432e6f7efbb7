"""Launches the CPU kernel of the fast global smoother. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.memory import new_output
from fastseg.backends.views import ELEMENT

Images = tuple[int, int, int, int]  # pointer, pixel type, batch and channel stride, in elements

# The numbers of csrc/include/fastseg/images.h.
PIXEL = {**ELEMENT, torch.uint8: 4}


def images(t: Tensor) -> Images:
    return t.data_ptr(), PIXEL[t.dtype], t.stride(0), t.stride(1)


def dense_rows(t: Tensor) -> Tensor:
    """``t`` itself where its rows are dense and follow each other, otherwise a copy."""
    height, width = t.shape[2:]
    dense = (width == 1 or t.stride(3) == 1) and (height == 1 or t.stride(2) == width)
    return t if dense else t.contiguous()


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
