"""What all networks are tested with."""

from __future__ import annotations

import pytest

from fastseg.nn import batch_norm


@pytest.fixture(autouse=True)
def small_norms_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norms of small images run the kernel, as large ones do."""
    monkeypatch.setattr(batch_norm, "TRAINING_FROM", 0)
    monkeypatch.setattr(batch_norm, "EVAL_FROM", 0)
