"""All rules, in the order in which they are asked. A new client adds its file here."""

from __future__ import annotations

from fastseg.accelerate import attention, context, losses, mednext, monai, nnunet, resnet
from fastseg.accelerate.convolutions import DepthwiseRule, SMPSeparableRule
from fastseg.accelerate.dense_conv import DenseConvRule, DenseConvTransposeRule
from fastseg.accelerate.own_layers import OwnLayerRule
from fastseg.accelerate.planning import Rule
from fastseg.accelerate.torch_layers import NormRule, SequentialRule

# From the largest module to the smallest: a block knows best what follows its norms, then a container; the rules for
# single layers take what is left.
RULES: tuple[Rule, ...] = (
    OwnLayerRule(),
    *nnunet.RULES,
    *monai.RULES,
    *mednext.RULES,
    *context.RULES,
    *attention.RULES,
    *resnet.RULES,
    *losses.RULES,
    SMPSeparableRule(),
    SequentialRule(),
    NormRule(),
    DepthwiseRule(),
    DenseConvRule(),
    DenseConvTransposeRule(),
)
