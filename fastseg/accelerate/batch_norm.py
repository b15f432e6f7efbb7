"""Batch norms of other people, with what follows them."""

from __future__ import annotations

from fastseg.nn import BatchNormAct2d, BatchNormAct3d


class SwappedBatchNorm2d(BatchNormAct2d):
    """torch.nn.BatchNorm2d with the activation that follows it."""


class SwappedBatchNorm3d(BatchNormAct3d):
    """torch.nn.BatchNorm3d with the activation that follows it."""
