"""How a loss of segmentation is shown to a kernel: its truth and its formula."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.backends.views import spatial_stride

# The numbers of TruthType in csrc/include/fastseg/loss.h.
TRUTH = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
    torch.float32: 5,
    torch.float64: 6,
}
#: Rows of a formula's sums: truth times probability, probability, truth, entropy; and of its slopes.
SUMS, SLOPES = 4, 3


class Formula(NamedTuple):
    """overlap_weight * overlap + ce_weight * cross-entropy: LossFormula of loss.h.

    The overlap is the generalised Dice loss, or (1 - Tversky index)^gamma: 1 - Dice for both weights 1/2, gamma 1 and
    half of Dice's smooth.
    """

    generalized: bool = False
    overlap_weight: float = 1.0
    ce_weight: float = 0.0
    fp_weight: float = 0.5
    fn_weight: float = 0.5
    smooth: float = 0.0
    gamma: float = 1.0
    batch: bool = False
    include_background: bool = True
    balanced: bool = False


def truth_for(target: Tensor) -> Tensor:
    """(N, 1 or K, *spatial), of an element type and strides that kernels read; copied where it has others."""
    if target.dtype == torch.bool:
        target = target.view(torch.uint8)
    elif target.dtype not in TRUTH:
        target = target.to(torch.float32 if target.is_floating_point() else torch.int64)
    return target if spatial_stride(target) is not None else target.contiguous()
