"""Tests share the machine: two threads each, so that pytest-xdist's workers do not fight for cores."""

from __future__ import annotations

import os

import pytest
import torch

torch.set_num_threads(2)

#: What pytest-xdist's workers inherit, and what they start. Threads that wait in a loop take the cores of those that
#: work; and memory that goes back to the system after each tensor is cleared page by page when it comes again.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)


@pytest.fixture
def small_norms_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norms of all sizes run the kernel, as large ones do."""
    for limit in ("TRAINING_FROM", "EVAL_FROM"):
        monkeypatch.setattr(f"fastseg.nn.batch_norm.{limit}", 0)
