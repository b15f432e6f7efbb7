"""Images as the CPU kernels of the stereo side take them: a pointer, a pixel type, and rows that follow each other."""

from __future__ import annotations

import torch
from torch import Tensor

from fastseg.backends.views import ELEMENT

Images = tuple[int, int, int, int]  # pointer, pixel type, batch and channel stride, in elements

# The numbers of csrc/include/fastseg/images.h.
PIXEL = {**ELEMENT, torch.uint8: 4}


def images(t: Tensor) -> Images:
    return t.data_ptr(), PIXEL[t.dtype], t.stride(0), t.stride(1)


def dense_rows(t: Tensor) -> Tensor:
    """``t`` itself where its rows are dense and follow each other, otherwise a copy."""
    height, width = t.shape[2:]
    dense = (width == 1 or t.stride(3) == 1) and (height == 1 or t.stride(2) == width)
    return t if dense else t.contiguous()
