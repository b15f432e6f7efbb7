"""What a match costs the host of a GPU: kernels that it launches, and how often it waits for one.

Triton's kernels are chosen for CPU tensors, as for its interpreter, but none runs: only launches are counted, and what
a kernel would have written is NaN.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import fastseg
from fastseg.stereo import StereoMatcher
from tests.backends.interpreter import INTERPRETED
from tests.support import picture, rerun

pytest.importorskip("triton")

counted = pytest.mark.skipif(not INTERPRETED, reason="needs Triton's kernels on CPU tensors; see the interpreter's run")
#: Reads numbers, or finds out a size, which the host waits for.
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    from fastseg.backends.triton import (  # noqa: F401 (they come into sys.modules)
        cross_scale,
        guided_filter,
        matching_cost,
        weighted_median,
        winner_takes_all,
    )

    counts: Counter[str] = Counter()
    for name, module in list(sys.modules.items()):
        if name.startswith("fastseg.backends.triton.") and hasattr(module, "launch"):
            monkeypatch.setattr(module, "launch", lambda kernel, *args, **kwargs: counts.update([kernel.fn.__name__]))
    torch.use_deterministic_algorithms(True)  # what is not written is NaN
    try:
        yield counts
    finally:
        torch.use_deterministic_algorithms(False)


@counted
@pytest.mark.parametrize(("preset", "most_launches"), [("fast", 20), ("accurate", 87)])
def test_launches_and_waits(
    preset: str, most_launches: int, launches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = (picture(3, 40, 64, dtype=torch.uint8, seed=seed) for seed in (0, 1))
    # No kernel writes costs: the sum is read, as of any, and taken for a number.
    monkeypatch.setattr(math, "isnan", lambda number: False)
    matcher = StereoMatcher.preset(preset, max_disparity=8, check_input=False)
    with fastseg.backend("triton"), profile(activities=[ProfilerActivity.CPU]) as run:
        matcher.match(left, right)
    waits = Counter(event.name for event in run.events() if event.name in WAITS)
    # Which pixels the weighted median is for; whether a cost is NaN.
    assert waits == {"aten::nonzero": 1, "aten::_local_scalar_dense": 1}
    assert sum(launches.values()) <= most_launches
