"""How the parameters of an attention gate are shown to a kernel."""

from __future__ import annotations

import torch
from torch import Tensor


def gate_vectors(compute: torch.dtype, bias: Tensor | None, psi_weight: Tensor, psi_bias: Tensor | None) -> Tensor:
    """(2 F + 1,): bias, psi's weights and psi's bias, zeros where a bias is missing."""
    psi = psi_weight.to(compute).flatten()
    first = torch.zeros_like(psi) if bias is None else bias.to(compute)
    last = psi.new_zeros(1) if psi_bias is None else psi_bias.to(compute)
    return torch.cat((first, psi, last))
