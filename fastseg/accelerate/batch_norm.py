"""Batch norms of other people: the fused kernel where it pays, and otherwise torch's own layer with nothing added."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fastseg.nn import BatchNormAct2d, BatchNormAct3d
from fastseg.ops.batch_norm import runs_fused
from fastseg.ops.norm import Activation

# Elements from where the CPU kernel was faster than torch's ops. In training it saves passes where there is a residual
# or an activation to fuse. In eval, and for a norm alone, torch's ops are as good until fresh memory costs page faults.
TRAINING_FROM = 1 << 21
OTHERWISE_FROM = 1 << 23


class _SwappedBatchNorm(_BatchNorm):
    """Stands before the fused layer in the order of base classes; activation and slope are set by the swap."""

    activation: Activation
    negative_slope: float

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if self._fuses(input, residual):
            y: Tensor = super().forward(input, residual)  # type: ignore[call-arg]
            return y
        y = _BatchNorm.forward(self, input)
        # In place, as most networks have it: a batch norm does not need its output for backward.
        if residual is not None:
            y += residual
        if self.activation == "relu":
            return F.relu_(y)
        return F.leaky_relu_(y, self.negative_slope) if self.activation == "leaky_relu" else y

    def _fuses(self, x: Tensor, residual: Tensor | None) -> bool:
        saves = self.training and (residual is not None or self.activation != "none")
        return runs_fused(x, TRAINING_FROM if saves else OTHERWISE_FROM)


class SwappedBatchNorm2d(_SwappedBatchNorm, BatchNormAct2d):
    """torch.nn.BatchNorm2d with the activation that follows it."""


class SwappedBatchNorm3d(_SwappedBatchNorm, BatchNormAct3d):
    """torch.nn.BatchNorm3d with the activation that follows it."""
