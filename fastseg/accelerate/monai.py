"""Rules for MONAI's networks. ADN and Convolution need none: they are nn.Sequential."""

from __future__ import annotations

from fastseg.accelerate.blocks import BlockRule
from fastseg.accelerate.planning import Rule

_BLOCKS = "monai.networks.blocks.dynunet_block"

# Both call one shared lrelu twice. UnetUpBlock runs a UnetBasicBlock.
RULES: tuple[Rule, ...] = (
    BlockRule(
        stock=f"{_BLOCKS}.UnetBasicBlock",
        fused="fastseg.accelerate.monai_blocks:FusedUnetBasicBlock",
        norms=("norm1", "norm2"),
        activation="lrelu",
    ),
    BlockRule(
        stock=f"{_BLOCKS}.UnetResBlock",
        fused="fastseg.accelerate.monai_blocks:FusedUnetResBlock",
        norms=("norm1", "norm2"),
        activation="lrelu",
    ),
)
