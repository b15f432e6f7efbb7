"""Loaded by ``pytest -p benchmarks.gpu.plugin`` in each process of ``python -m benchmarks.gpu``."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import record


def pytest_configure(config: pytest.Config) -> None:
    torch.backends.cudnn.benchmark = True  # the vendor's best route, for every peer
    config.pluginmanager.register(record.Plugin())
