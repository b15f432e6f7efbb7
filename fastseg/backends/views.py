"""How a tensor is shown to a kernel: which layout it is in, its strides, its pointer.

Kernels see (batch, channels, spatial) with all spatial axes folded into one, in one of two layouts: ``rows`` (the
spatial axis has stride 1, as in contiguous tensors) or ``channels_last`` (the channel axis has stride 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["rows", "channels_last"]
View = tuple[int, int, int, int, int]  # pointer, element type, batch, channel and spatial stride, in elements
Vector = tuple[int, int, int]  # pointer, element type, stride

# The numbers of csrc/include/fastseg/tensor.h and norm.h.
ELEMENT = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ACTIVATION = {"none": 0, "relu": 1, "leaky_relu": 2}


def convolved_layout(x: Tensor) -> Layout:
    """In which layout a dense convolution returns its output: as torch has it, one channel may count as either."""
    if x.shape[1] == 1 and x.stride(1) == 1 and x.shape[2:].numel() > 1:
        return "channels_last"
    return layout_of(x) or "rows"


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


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _is_channels_last(t: Tensor) -> bool:
    """Of a tensor that is not contiguous, whether it is dense in channels-last: torch's answer is the quickest."""
    return t.ndim in _CHANNELS_LAST and t.is_contiguous(memory_format=_CHANNELS_LAST[t.ndim])


def layout_of(t: Tensor) -> Layout | None:
    """The layout in which a kernel can read ``t`` as it lies in memory, or None."""
    if t.is_contiguous():
        return "rows"
    if _is_channels_last(t):
        return "channels_last"
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
    if t.is_contiguous():
        return t.stride(0), t.stride(1), 1
    if _is_channels_last(t):
        return t.stride(0), 1, t.shape[1]
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
    return x.new_empty(x.shape[:2], dtype=dtype)


def weight_layout(weight: Tensor) -> Layout:
    """How gradients of a convolution's ``weight`` (O, C, *kernel) lie: as it does, if it is dense in either layout."""
    return "rows" if weight.is_contiguous() or not weight.movedim(1, -1).is_contiguous() else "channels_last"


def new_output(x: Tensor, channels: int, size: Sequence[int], layout: Layout) -> Tensor:
    """Uninitialised (N, channels, *size) of x's batch, dtype and device, dense in ``layout``."""
    shape = (x.shape[0], channels, *size)
    if layout == "rows":
        return x.new_empty(shape)  # half the cost of torch.empty with these arguments
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(layout, len(size)))


def output_like(x: Tensor) -> Tensor:
    """Empty, in x's strides; contiguous where no kernel reads x as it lies and a contiguous copy takes its place."""
    return torch.empty_like(x, memory_format=torch.preserve_format if layout_of(x) else torch.contiguous_format)


def memory_format(layout: Layout, spatial_rank: int) -> torch.memory_format:
    if layout == "rows":
        return torch.contiguous_format
    return torch.channels_last if spatial_rank == 2 else torch.channels_last_3d


def three_axes(size: Sequence[int]) -> tuple[int, ...]:
    """One to three spatial sizes as three: missing axes are of size 1, and come first."""
    return (1,) * (3 - len(size)) + tuple(size)


def depthwise_shape(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> tuple[int, ...]:
    """DepthwiseShape of csrc/include/fastseg/depthwise.h: two spatial axes become three, of depth 1."""
    batch, channels, *image = input_shape
    filters, _, *kernel = weight_shape
    head = (batch, channels, filters // channels)
    if len(size) == 2:
        return (*head, 1, *image, 1, *size, 1, *kernel, 1, *stride, 0, *padding, 1, *dilation)
    return (*head, *image, *size, *kernel, *stride, *padding, *dilation)


def depthwise_layouts(x: Tensor, multiplies: bool) -> tuple[Layout, Layout]:
    """The layout of a depthwise convolution's output, and the one in which its kernel runs.

    They differ where channels-last x has a channel multiplier: there neighbours in a vector would read one channel.
    """
    layout = layout_of(x) or "rows"
    return layout, "rows" if multiplies else layout
