"""The blocks of MedNeXt's authors over fused ops. Imported when a model of theirs is met; no state of their own."""

from __future__ import annotations

from nnunet_mednext.network_architecture.mednextv1.blocks import MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock
from torch import Tensor

from fastseg.accelerate.mednext_blocks import FusedForward


class FusedMedNeXtBlock(FusedForward, MedNeXtBlock):
    def response_norm(self) -> tuple[Tensor, Tensor] | None:
        return (self.grn_gamma, self.grn_beta) if self.grn else None


class FusedMedNeXtDownBlock(MedNeXtDownBlock, FusedMedNeXtBlock):
    pass


class FusedMedNeXtUpBlock(MedNeXtUpBlock, FusedMedNeXtBlock):
    pass
