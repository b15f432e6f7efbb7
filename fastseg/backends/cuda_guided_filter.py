"""Launches the CUDA C++ kernel of the guided filter. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.cpu_guided_filter import BORDER
from fastseg.backends.images import dense_rows, images


def guided_filter(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> Tensor:
    src = dense_rows(src)
    dst = torch.empty(src.shape, dtype=src.dtype, device=src.device)
    centred = guide.double() - guide.mean((-2, -1), keepdim=True, dtype=torch.float64)  # changes nothing but rounding
    compute = torch.promote_types(src.dtype, torch.float32)
    colours = centred.to(compute).contiguous()
    # Products of the colours as they are rounded, or a covariance would be that of another guide.
    wide = colours.double()
    batch, guides, height, width = wide.shape
    moments = torch.empty((batch, guides * (guides + 1), height, width), dtype=torch.float64, device=src.device)
    _launch(wide, moments, wide, None, radius, border)
    statistics = _statistics(moments.view(batch, guides, guides + 1, height, width), eps).to(compute)
    _launch(src, dst, colours, statistics, radius, border)
    return dst


def guided_filter_argmin(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> tuple[Tensor, Tensor]:
    wide = src.to(torch.promote_types(src.dtype, torch.float32))
    cost, index = guided_filter(guide, wide, radius, eps, border).min(1)
    return index, cost


def _statistics(moments: Tensor, eps: float) -> Tensor:
    """What csrc/include/fastseg/guided_filter.h calls statistics, from the means of each colour and its products."""
    means = moments[:, :, 0]
    covariance = moments[:, :, 1:] - means.unsqueeze(1) * means.unsqueeze(2)

    def entry(i: int, j: int) -> Tensor:
        return covariance[:, i, j] + (eps if i == j else 0.0)

    d0 = entry(0, 0)
    if means.shape[1] == 1:
        return torch.cat((means, d0.reciprocal().unsqueeze(1)), 1)
    l10, l20 = entry(1, 0) / d0, entry(2, 0) / d0
    d1 = entry(1, 1) - l10 * entry(1, 0)
    l21 = (entry(2, 1) - l20 * entry(1, 0)) / d1
    d2 = entry(2, 2) - l20 * entry(2, 0) - l21 * l21 * d1
    factors = (l10, l20, l21, d0.reciprocal(), d1.reciprocal(), d2.reciprocal())
    return torch.cat((means, torch.stack(factors, 1)), 1)


def _launch(src: Tensor, dst: Tensor, colours: Tensor, statistics: Tensor | None, radius: int, border: str) -> None:
    """Filter src; or, without statistics, store means over windows of src and of its products with the colours."""
    batch, channels, height, width = src.shape
    with torch.cuda.device(src.device):
        _C.cuda_guided_filter(
            batch,
            channels,
            height,
            width,
            colours.shape[1],
            images(src),
            images(dst),
            colours.data_ptr(),
            0 if statistics is None else statistics.data_ptr(),
            radius,
            BORDER[border],
            torch.cuda.current_stream().cuda_stream,
        )
