"""For layers that may also call torch's convolutions: whether ours can be the faster one."""

from __future__ import annotations

import torch
from torch import Tensor

from fastseg.backends import availability, select
from fastseg.backends.views import memory_format

#: Whether kernels for this processor's vectors run; those for any processor were never timed beside oneDNN.
_WIDE = availability.COMPILED is not None and availability.COMPILED.cpu_capability() != "baseline"


def runs_ours(x: Tensor) -> bool:
    """Whether products of ``x`` are ours: for 16-bit ones processors have instructions that our kernels have not."""
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)


def offered(op: str, x: Tensor, weight: Tensor) -> bool:
    """Whether ``op`` has a kernel for x and weight that may be faster than torch's.

    Not in torch.export, which would keep limits as sizes.
    """
    forced = select.forced()
    if x.device.type != "cpu" or forced is not None:
        return forced == "cpu"
    if not _WIDE or not runs_ours(x) or x.dtype != weight.dtype:
        return False
    return not torch.compiler.is_exporting() and not select.runs_reference(op, x)


def as_torch_lays_out(x: Tensor, weight: Tensor) -> Tensor:
    """``x`` in channels-last where ``weight`` is: torch's convolutions return that where one of both is."""
    if weight.stride(1) == 1 and weight.shape[2:].numel() > 1:
        return x.to(memory_format=memory_format("channels_last", x.ndim - 2))
    return x
