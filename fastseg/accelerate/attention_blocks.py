"""Attention modules of other people over fused ops, with their submodules; no state of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastseg import ops
from fastseg.nn import SCSE
from fastseg.nn.cbam import spatial_arguments


class FusedSCSE(SCSE):
    """SMP's SCSEModule: the same submodules under the same names."""


class FusedCBAM(nn.Module):
    """CBAM as its authors wrote it."""

    _fastseg_order: str

    def forward(self, x: Tensor) -> Tensor:
        fc1: Any = self.get_submodule("ChannelGate.mlp.1")
        fc2: Any = self.get_submodule("ChannelGate.mlp.3")
        spatial: Any = self.get_submodule("SpatialGate.spatial")
        return ops.cbam(
            x,
            fc1.weight,
            fc2.weight,
            spatial.conv.weight,
            fc1_bias=fc1.bias,
            fc2_bias=fc2.bias,
            order=self._fastseg_order,  # type: ignore[arg-type]
            **spatial_arguments(spatial.conv, spatial.bn),
        )
