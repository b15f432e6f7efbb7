"""MONAI's AttentionBlock as one attention gate, where its batch norms are affine maps.

Imported when a model of MONAI is met. The class has no state of its own: what the norms amount to is taken from their
parameters and statistics in every call, a few numbers for each feature, so that it can never be out of date.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.attentionunet import AttentionBlock
from torch import Tensor, nn

from fastseg.ops.attention_gate import attention_gate


class FusedAttentionBlock(AttentionBlock):
    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        branches = (self.W_x, self.W_g, self.psi)
        # A norm that takes the statistics of its batch needs the values that a gate does not store.
        if any(branch[1].training or branch[1].running_mean is None for branch in branches):
            y: Tensor = super().forward(g, x)
            return y
        (x_weight, x_bias), (gating_weight, gating_bias), (psi_weight, psi_bias) = map(_folded, branches)
        return attention_gate(x, g, x_weight, gating_weight, x_bias + gating_bias, psi_weight, psi_bias)


def _folded(branch: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Weight and bias of a 1x1 convolution and the batch norm behind it in one."""
    conv: Any = branch[0].get_submodule("conv")
    norm: Any = branch[1]
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    bias = -mean * scale if norm.bias is None else norm.bias - mean * scale
    return conv.weight * scale.view(-1, *[1] * (conv.weight.ndim - 1)), bias
