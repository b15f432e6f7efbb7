"""Tensors as Triton kernels take them: strides, alignment, tiles of pointers, and the one way to launch."""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastseg.backends.views import Layout, as_layout, strides3


class Strided(NamedTuple):
    """A tensor as kernels take it. The outer axis is channels in the rows layout and pixels in channels-last."""

    data: Tensor
    batch: int
    outer: int


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def tl_dtype(dtype: torch.dtype) -> Any:
    return {torch.float32: tl.float32, torch.float64: tl.float64}[dtype]


def strided(t: Tensor | None, layout: Layout) -> Strided | None:
    """``t`` as it lies in memory, which must be ``layout``."""
    if t is None:
        return None
    batch, channel, pixel = strides3(t)
    return Strided(t, batch, channel if layout == "rows" else pixel)


def in_layout(t: Tensor | None, layout: Layout) -> Strided | None:
    """``t``, copied where it does not lie in ``layout``."""
    return None if t is None else strided(as_layout(t, layout), layout)


def dense(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def alignment(inner: int, *views: Strided | None) -> int:
    """The largest power of two up to 16 that divides the inner axis and all strides, and so the start of every run.

    Triton knows of multiples of 16 by itself; with 4 or 8, accesses can be 16 bytes wide just as well.
    """
    return math.gcd(16, inner, *(stride for view in views if view for stride in (view.batch, view.outer)))


def launch(kernel: Any, programs: int, warps: int, *args: Any, **constants: Any) -> None:
    """Every launch goes through here, so that tests can see which kernels run and with what."""
    kernel[(programs,)](*args, num_warps=warps, **constants)


def captured(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Launches as a graph. Their kernels have run before, for they are loaded at first use; nothing is allocated."""
    # Not by torch.cuda.graph, which waits for the device and empties torch's cache.
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            run()
        finally:
            graph.capture_end()
    return graph


# ---- device functions ------------------------------------------------------------------------------------------------


@triton.jit
def batch_and_channels(block, channels, BLOCK_C: tl.constexpr):
    blocks = tl.cdiv(channels, BLOCK_C)
    channel = (block % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    return (block // blocks).to(tl.int64), channel.to(tl.int64)


@triton.jit
def tile_mask(channel, pixel, channels, spatial, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr):
    # x // ALIGN * ALIGN is x, here and below; written so, the compiler knows it for a multiple.
    if CHANNELS_LAST:
        channels = channels // ALIGN * ALIGN
    else:
        spatial = spatial // ALIGN * ALIGN
    return (channel < channels)[:, None] & (pixel < spatial)[None, :]


@triton.jit
def pointers(t, n, channel, pixel, CHANNELS_LAST: tl.constexpr, ALIGN: tl.constexpr):
    if CHANNELS_LAST:
        outer = pixel[None, :]
        inner = channel[:, None]
    else:
        outer = channel[:, None]
        inner = pixel[None, :]
    return t.data + (n * (t.batch // ALIGN * ALIGN) + outer * (t.outer // ALIGN * ALIGN) + inner)


@triton.jit
def per_channel(vector, channel, channels, ACC: tl.constexpr):
    return tl.load(vector + channel, channel < channels, 0.0).to(ACC)[:, None]


@triton.jit
def store_rounded(dst, value, mask):
    """Stores numbers in the type of ``dst``; bytes are clipped, and rounded to the nearest (even) number."""
    if dst.dtype.element_ty == tl.uint8:
        value = tl.minimum(tl.maximum(value, 0.0), 255.0)
        value = (value + 12582912.0) - 12582912.0
    tl.store(dst, value.to(dst.dtype.element_ty), mask)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) and its derivative. exp(-|x|) does not overflow, and the derivative from it does not cancel."""
    e = tl.exp(-tl.abs(x))
    r = 1 / (1 + e)
    return tl.where(x < 0, e * r, r), e * r * r
