"""What all networks are tested with."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def all_norms_fuse(small_norms_fuse: None) -> None:
    """The images of these tests are small."""
