"""What every benchmark records beside its times."""

from __future__ import annotations

import os

import pytest
import torch

import fastseg
from fastseg.backends import availability

_peak = 0.0


@pytest.fixture(autouse=True)
def measured_peak() -> None:
    """The clock of a shared machine changes by the minute: the best of what is measured before each benchmark."""
    global _peak
    if availability.COMPILED:
        _peak = max(_peak, availability.COMPILED.measure_peak(torch.get_num_threads()))


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["threads"] = torch.get_num_threads()
    machine_info["torch"] = torch.__version__
    machine_info["fastseg"] = fastseg.__version__
    machine_info["capability"] = availability.COMPILED.cpu_capability() if availability.COMPILED else None
    machine_info["gflops"] = round(_peak / 1e9)
    machine_info["huge_pages"] = os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"
    machine_info["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
