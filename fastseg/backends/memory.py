"""Large outputs on the CPU, in memory that is kept between calls (csrc/include/fastseg/cpu/memory.h says why)."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fastseg.backends import availability

#: Smaller outputs come from torch's allocator, which keeps memory of that size by itself.
POOLED_BYTES = 1 << 20


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised CPU tensor of x's shape, dtype and strides, as ``torch.empty_like`` lays it out."""
    if x.numel() * x.element_size() < POOLED_BYTES:
        return torch.empty_like(x)
    strides = torch.empty_like(x, device="meta").stride()
    block = availability.COMPILED.Block(x.numel() * x.element_size())  # type: ignore[union-attr]
    # set_ rather than a view of the buffer: autograd refuses in-place changes of a view that an op returned.
    storage = torch.frombuffer(block, dtype=x.dtype).untyped_storage()
    return torch.empty(0, dtype=x.dtype).set_(storage, 0, x.shape, strides)


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


def release_cpu_cache() -> None:
    """Give all kept memory of dead CPU outputs back to the system now."""
    if availability.COMPILED is not None:
        availability.COMPILED.release_cache()


if os.environ.get("FASTSEG_CPU_CACHE_BYTES"):
    set_cpu_cache_limit(int(os.environ["FASTSEG_CPU_CACHE_BYTES"]))
