"""Images in floating point are in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

# A resampled image may overshoot a little; one in 0..255 is far beyond.
_SLACK = 0.1


def check_unit_range(op: str, name: str, image: Tensor) -> None:
    """Refuses numbers that are far out of [0, 1], such as those of bytes in floating point.

    Raises:
        ValueError: with the least and the largest number.
    """
    if image.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(image)).tolist()  # one look
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(
            f"{op}: {name} has values from {low:g} to {high:g}, expected floating point in [0, 1]: divide 8-bit "
            "numbers by 255"
        )
