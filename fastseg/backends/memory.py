"""Large outputs on the CPU, in memory that is kept between calls (csrc/include/fastseg/cpu/memory.h says why)."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.backends import availability, views
from fastseg.backends.views import Layout

#: Smaller outputs come from torch's allocator, which keeps memory of that size by itself.
POOLED_BYTES = 1 << 20


def empty_like(x: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """An uninitialised CPU tensor of x's shape, dtype and strides, as ``torch.empty_like`` lays it out."""
    if x.numel() * x.element_size() < POOLED_BYTES:
        return torch.empty_like(x, memory_format=memory_format)
    if memory_format is not torch.preserve_format:
        layout: Layout = "rows" if memory_format is torch.contiguous_format else "channels_last"
        return _pooled(x.shape, x.dtype, _dense_strides(x.shape, layout))
    return _pooled(x.shape, x.dtype, x.stride() if x.is_contiguous() else torch.empty_like(x, device="meta").stride())


def empty(count: int) -> Tensor:
    """Uninitialised float32 numbers, for what kernels keep between calls or need while they run."""
    if 4 * count < POOLED_BYTES:
        return torch.empty(count)
    return _pooled((count,), torch.float32, (1,))


def new_empty(shape: Sequence[int], dtype: torch.dtype, layout: Layout = "rows") -> Tensor:
    """An uninitialised dense CPU tensor; channels-last has two or three spatial axes."""
    if math.prod(shape) * dtype.itemsize < POOLED_BYTES:
        return torch.empty_strided(shape, _dense_strides(shape, layout), dtype=dtype)
    return _pooled(shape, dtype, _dense_strides(shape, layout))


def new_output(x: Tensor, channels: int, size: Sequence[int], layout: Layout) -> Tensor:
    """:func:`fastseg.backends.views.new_output` for CPU tensors."""
    if x.shape[0] * channels * math.prod(size) * x.element_size() < POOLED_BYTES:
        return views.new_output(x, channels, size, layout)
    shape = (x.shape[0], channels, *size)
    return _pooled(shape, x.dtype, _dense_strides(shape, layout))


def _dense_strides(shape: Sequence[int], layout: Layout) -> list[int]:
    """As torch has them, without making a tensor to ask; channels-last has two or three spatial axes."""
    rank = len(shape)
    strides, step = [0] * rank, 1
    for axis in (1, *range(rank - 1, 1, -1), 0) if layout == "channels_last" else range(rank - 1, -1, -1):
        strides[axis] = step
        step *= shape[axis]
    return strides


def _pooled(shape: Sequence[int], dtype: torch.dtype, strides: Sequence[int]) -> Tensor:
    block = availability.COMPILED.Block(math.prod(shape) * dtype.itemsize)  # type: ignore[union-attr]
    # set_ rather than a view of the buffer: autograd refuses in-place changes of a view that an op returned.
    flat = torch.frombuffer(block, dtype=dtype)
    return flat.set_(flat.untyped_storage(), 0, shape, strides)


def set_cpu_cache_limit(nbytes: int) -> None:
    """Keep at most ``nbytes`` of memory of dead CPU outputs for new ones; 0 keeps none.

    The default is 2 GB, or an eighth of the machine's memory if that is less; ``FASTSEG_CPU_CACHE_BYTES`` in the
    environment sets it from the start. The system takes kept memory back by itself when memory is short.

    Raises:
        ValueError: ``nbytes`` is negative.
    """
    if nbytes < 0:
        raise ValueError(f"set_cpu_cache_limit: nbytes is {nbytes}, expected a number of bytes >= 0")
    if availability.COMPILED is not None:
        availability.COMPILED.set_cache_limit(nbytes)


def release_gpu_cache() -> None:
    """Drop what kernels on GPUs keep for their next call: the buffers and graphs of :func:`fastseg.ops.wls_filter`.

    ``torch.cuda.empty_cache()`` then gives that memory back to the device.
    """
    setup = sys.modules.get("fastseg.backends.triton.wls_setup")  # not imported: nothing is kept
    if setup is not None:
        setup.release()


def release_cpu_cache() -> None:
    """Give all kept memory of dead CPU outputs back to the system now."""
    if availability.COMPILED is not None:
        availability.COMPILED.release_cache()


if os.environ.get("FASTSEG_CPU_CACHE_BYTES"):
    set_cpu_cache_limit(int(os.environ["FASTSEG_CPU_CACHE_BYTES"]))
