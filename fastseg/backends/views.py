"""How a tensor is shown to a kernel: which layout it is in, its strides, its pointer.

Kernels see (batch, channels, spatial) with all spatial axes folded into one, in one of two layouts: ``rows`` (the
spatial axis has stride 1, as in contiguous tensors) or ``channels_last`` (the channel axis has stride 1).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Layout = Literal["rows", "channels_last"]
View = tuple[int, int, int, int, int]  # pointer, element type, batch, channel and spatial stride, in elements
Vector = tuple[int, int, int]  # pointer, element type, stride

# The numbers of csrc/include/fastseg/tensor.h and norm.h.
ELEMENT = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ACTIVATION = {"none": 0, "relu": 1, "leaky_relu": 2}


def spatial_stride(t: Tensor) -> int | None:
    """The one stride that all spatial axes fold into, or None where they do not fold."""
    shape, strides = t.shape, t.stride()
    stride = None
    expected = 0
    for axis in range(len(shape) - 1, 1, -1):
        size = shape[axis]
        if size == 1:
            continue
        if stride is None:
            stride = strides[axis]
        elif strides[axis] != expected:
            return None
        expected = strides[axis] * size
    return 1 if stride is None else stride


def layout_of(t: Tensor) -> Layout | None:
    """The layout in which a kernel can read ``t`` as it lies in memory, or None."""
    if t.is_contiguous():
        return "rows"
    stride = spatial_stride(t)
    if stride == 1:
        return "rows"
    if stride is not None and stride >= t.shape[1] and (t.stride(1) == 1 or t.shape[1] == 1):
        return "channels_last"
    return None


def as_layout(t: Tensor, layout: Layout) -> Tensor:
    """``t`` itself where a kernel can read it in ``layout``, otherwise a dense copy in that layout."""
    if layout_of(t) == layout:
        return t
    if layout == "rows":
        return t.contiguous()
    order = (0, *range(2, t.ndim), 1)
    return t.permute(order).contiguous().permute((0, t.ndim - 1, *range(1, t.ndim - 1)))


def strides3(t: Tensor) -> tuple[int, int, int]:
    """(batch, channel, spatial) strides of a tensor whose spatial axes fold, in elements."""
    stride = spatial_stride(t)
    assert stride is not None, "brought into a layout before"
    return t.stride(0), t.stride(1), stride


def view(t: Tensor) -> View:
    return (t.data_ptr(), ELEMENT[t.dtype], *strides3(t))


def optional_view(t: Tensor | None) -> View | None:
    return None if t is None else view(t)


def vector(t: Tensor | None) -> Vector | None:
    return None if t is None else (t.data_ptr(), ELEMENT[t.dtype], t.stride(0))


def statistics_like(x: Tensor) -> Tensor:
    """Uninitialised: one number for each (batch, channel) of x, in the dtype that kernels compute in."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.empty(x.shape[:2], dtype=dtype, device=x.device)
