"""Fixtures that families of ops share."""

from __future__ import annotations

import pytest

from fastseg.backends import cpu, cpu_dense_conv
from tests.support import poison


@pytest.fixture
def one_kernel(monkeypatch):
    """Separable convolutions of small images in the one kernel too, which is the default for large ones."""
    monkeypatch.setattr(cpu, "_ONE_KERNEL_BYTES", 0)
    monkeypatch.setattr(cpu, "_ONE_KERNEL_CHANNELS", 1 << 20)


@pytest.fixture
def nan_poisoned_convolutions(monkeypatch):
    """What dense convolutions write to."""
    for module, name in (
        (cpu_dense_conv, "new_output"),
        (cpu_dense_conv, "new_empty"),
        (cpu_dense_conv.memory, "empty"),
    ):
        poison(monkeypatch, module, name)
