"""What tests in Triton's interpreter share."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

#: Kernels run in Triton's interpreter, on CPU tensors: the variable is read when triton is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

runs_kernels = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU; see the interpreter's run"
)


def scan_by_doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans in the interpreter as on a GPU, by doubling the runs that are composed, whole tiles at a time.

    The interpreter's own goes element by element, a hundred times slower, and in the one order that a GPU never takes.
    """
    from triton.runtime import interpreter

    def scan(self: Any, inputs: list[Any]) -> list[Any]:
        arrays = [value.handle.data for value in inputs]

        def tensors(data: list[np.ndarray]) -> list[Any]:
            return [self.to_tensor(array, value.dtype) for array, value in zip(data, inputs, strict=True)]

        shift = 1
        while shift < arrays[0].shape[self.axis]:
            begin = (*[slice(None)] * self.axis, slice(0, shift))  # nothing comes before it
            before = [np.roll(array, shift, self.axis) for array in arrays]
            composed = self.combine_fn.fn(*tensors(before), *tensors(arrays))
            doubled = [value.handle.data.copy() for value in composed]
            for new, old in zip(doubled, arrays, strict=True):
                new[begin] = old[begin]
            arrays = doubled
            shift *= 2
        return tensors(arrays)

    monkeypatch.setattr(interpreter.ScanOps, "generic_scan", scan)
