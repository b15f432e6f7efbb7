"""The soft_mask_attention family in plain PyTorch: the definition, exact in float64, on any device."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_mask_attention(trunk: Tensor, mask_logits: Tensor) -> Tensor:
    """(1 + sigmoid(mask_logits)) * trunk."""
    compute = torch.promote_types(trunk.dtype, torch.float32)
    return ((1 + torch.sigmoid(mask_logits.to(compute))) * trunk.to(compute)).to(trunk.dtype)
