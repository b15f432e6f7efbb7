"""SMP's ASPP with its branches in one op. Imported when a model of SMP is met."""

from __future__ import annotations

import torch.nn.functional as F
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP
from torch import Tensor

from fastseg.accelerate.context import smp_refusal
from fastseg.nn.context import fuse, run_branches


class FusedASPP(ASPP):
    def forward(self, x: Tensor) -> Tensor:
        if smp_refusal(self) is not None:
            stock: Tensor = super().forward(x)
            return stock
        *branches, pooling = self.convs
        y = run_branches(x, [branch[0] for branch in branches], [branch[1] for branch in branches], "relu")
        # Not by its own forward, which would make an image of the one pixel.
        pooled = x
        for layer in pooling:
            pooled = layer(pooled)
        conv, norm, _, dropout = self.project
        z: Tensor = dropout(F.relu_(fuse(y, pooled, conv, norm)))
        return z
