"""What a match gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DisparityMap:
    """Disparities of the left image, arrays of the kind that the images had, (H, W) or (B, H, W) for a batch.

    Attributes:
        disparity: float32, pixels, dense: pixels that are not valid are filled from their surroundings. Left pixel x is
            seen at x - d in the right image.
        valid: bool, where both views agree.
        confidence: float32 in [0, 1], how far the least cost lies below any that is no neighbour of it; 0 where the
            disparity is not valid.
        seconds: what each stage took.
    """

    disparity: Any
    valid: Any
    confidence: Any
    seconds: Mapping[str, float] = field(default_factory=dict)
