"""Fixtures that families of ops share."""

from __future__ import annotations

import pytest

from fastseg.backends import cpu


@pytest.fixture
def one_kernel(monkeypatch):
    """Separable convolutions of small images in the one kernel too, which is the default for large ones."""
    monkeypatch.setattr(cpu, "_ONE_KERNEL_BYTES", 0)
    monkeypatch.setattr(cpu, "_ONE_KERNEL_CHANNELS", 1 << 20)
