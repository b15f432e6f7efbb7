"""What the tests on a GPU share: each runs once for each backend, with outputs that begin as NaN where it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import fastseg
from fastseg.backends import availability


@pytest.fixture(params=["triton", "cuda"])
def forced(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test for each backend; the setting is for the whole process, so backward has it too."""
    refusal = availability.cuda_refusal() if request.param == "cuda" else availability.TRITON_REFUSAL
    if refusal is not None:
        pytest.skip(refusal)
    with fastseg.backend(request.param):
        yield request.param


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs begin as NaN, so that an element that no kernel writes is seen."""
    for owner, name in ((torch, "empty_like"), (torch.Tensor, "new_empty"), (torch, "empty")):
        allocate = getattr(owner, name)

        def with_nan(*args: object, allocate: Callable[..., Tensor] = allocate, **kwargs: object) -> Tensor:
            t = allocate(*args, **kwargs)
            return t.fill_(float("nan")) if t.is_floating_point() and t.is_cuda else t

        monkeypatch.setattr(owner, name, with_nan)


@pytest.fixture
def full_precision() -> Iterator[None]:
    """The budgets are those of float32; TF32 is the user's choice. By hand: these modules cannot be monkeypatched."""
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
