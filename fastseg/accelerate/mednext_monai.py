"""MONAI's MedNeXt blocks over fused ops. Imported when a model of MONAI is met; no state of their own."""

from __future__ import annotations

from monai.networks.blocks.mednext_block import MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock
from torch import Tensor

from fastseg.accelerate.mednext_blocks import FusedForward


class FusedMedNeXtBlock(FusedForward, MedNeXtBlock):
    def response_norm(self) -> tuple[Tensor, Tensor] | None:
        return (self.global_resp_gamma, self.global_resp_beta) if self.global_resp_norm else None


class FusedMedNeXtDownBlock(MedNeXtDownBlock, FusedMedNeXtBlock):  # type: ignore[misc]
    pass


class FusedMedNeXtUpBlock(MedNeXtUpBlock, FusedMedNeXtBlock):  # type: ignore[misc]
    pass
