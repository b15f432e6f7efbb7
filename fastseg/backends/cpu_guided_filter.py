"""Launches the CPU kernels of the guided filter. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.images import dense_rows, images
from fastseg.backends.memory import new_output

# The numbers of csrc/include/fastseg/guided_filter.h.
BORDER = {"truncate": 0, "reflect": 1, "reflect_101": 2}


def guided_filter(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> Tensor:
    dst = new_output(src, src.shape[1], src.shape[2:], "rows")
    _launch(guide, src, dst, radius, eps, border, False)
    return dst


def guided_filter_argmin(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> tuple[Tensor, Tensor]:
    """(B, H, W) each: the channel whose result is smallest, and that result in the type that is computed with."""
    guide, src = dense_rows(guide), dense_rows(src)
    batch, channels, height, width = src.shape
    index = src.new_empty((batch, height, width), dtype=torch.int64)
    value = src.new_empty((batch, height, width), dtype=torch.promote_types(src.dtype, torch.float32))
    _C.guided_filter_argmin(
        batch,
        channels,
        height,
        width,
        images(guide),
        guide.shape[1],
        images(src),
        radius,
        eps,
        BORDER[border],
        index.data_ptr(),
        value.data_ptr(),
        torch.get_num_threads(),
    )
    return index, value


def guided_filter_coefficients(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> Tensor:
    """(B, C * (guide channels + 1), H, W): slopes mean(a) and the offset mean(b), in the type that is computed with."""
    coefficients = src.shape[1] * (guide.shape[1] + 1)
    dst = src.new_empty(
        (src.shape[0], coefficients, *src.shape[2:]), dtype=torch.promote_types(src.dtype, torch.float32)
    )
    _launch(guide, src, dst, radius, eps, border, True)
    return dst


def guided_filter_interpolate(guide: Tensor, coefficients: Tensor, subsample: int, src: Tensor) -> Tensor:
    """The result, of src's shape and dtype, from coefficients of every ``subsample``-th pixel."""
    guide = dense_rows(guide)
    dst = new_output(src, src.shape[1], src.shape[2:], "rows")
    batch, channels, height, width = src.shape
    _C.guided_filter_interpolate(
        batch,
        channels,
        height,
        width,
        images(guide),
        guide.shape[1],
        images(coefficients),
        images(dst),
        subsample,
        torch.get_num_threads(),
    )
    return dst


def _launch(guide: Tensor, src: Tensor, dst: Tensor, radius: int, eps: float, border: str, coefficients: bool) -> None:
    guide, src = dense_rows(guide), dense_rows(src)
    batch, channels, height, width = src.shape
    _C.guided_filter(
        batch,
        channels,
        height,
        width,
        images(guide),
        guide.shape[1],
        images(src),
        images(dst),
        radius,
        eps,
        BORDER[border],
        coefficients,
        torch.get_num_threads(),
    )
