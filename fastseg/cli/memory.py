"""Peak memory of a piece of work: what it needed beyond what the process already held."""

from __future__ import annotations

import ctypes
import gc
import sys

import torch

import fastseg


class PeakMemory:
    """Measures between its construction and :meth:`read`.

    On CUDA it is the largest sum of torch's allocations. On Linux it is the resident set of the process, whose
    high-water mark is set back by writing to /proc/self/clear_refs. Elsewhere it is not measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before: int | None = torch.cuda.memory_allocated(device)
        else:
            self._before = _reset_high_water_mark()

    def read(self) -> int | None:
        """Bytes above the level at construction, or None where the system does not tell."""
        if self._before is None:
            return None
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return _status("VmHWM") - self._before


def meaning(device: torch.device) -> str:
    """What the number is, in words."""
    return "allocated by torch on the GPU" if device.type == "cuda" else "resident set"


def _reset_high_water_mark() -> int | None:
    """The resident set in bytes after free memory went back to the system, or None."""
    if sys.platform != "linux":
        return None
    # Memory that fastseg and malloc keep after a run would make the next run look smaller.
    fastseg.release_cpu_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:  # some containers forbid it
        return None
    return _status("VmRSS")


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
