"""Every op in plain PyTorch, under the op's name."""

from fastseg.reference.attention_gate import attention_gate
from fastseg.reference.batch_norm import batch_norm_act
from fastseg.reference.cbam import attention
from fastseg.reference.context import aspp_conv, separable_aspp_conv
from fastseg.reference.cross_scale import cross_scale_aggregate
from fastseg.reference.dense_conv import dense_conv, dense_conv_transpose
from fastseg.reference.depthwise import (
    depthwise_conv,
    depthwise_conv_transpose,
    depthwise_instance_norm_act,
    pointwise_conv,
)
from fastseg.reference.fast_global_smoother import fast_global_smoother
from fastseg.reference.guided_filter import guided_filter, guided_filter_argmin
from fastseg.reference.loss import dice_cross_entropy, generalized_dice, tversky
from fastseg.reference.matching_cost import census_transform, matching_cost
from fastseg.reference.norm import instance_norm_act
from fastseg.reference.soft_mask_attention import soft_mask_attention
from fastseg.reference.up_conv import up_conv
from fastseg.reference.weighted_median import weighted_median
from fastseg.reference.winner_takes_all import winner_takes_all
from fastseg.reference.wls import wls_filter

__all__ = [
    "aspp_conv",
    "attention",
    "attention_gate",
    "batch_norm_act",
    "census_transform",
    "cross_scale_aggregate",
    "dense_conv",
    "dense_conv_transpose",
    "depthwise_conv",
    "depthwise_conv_transpose",
    "depthwise_instance_norm_act",
    "dice_cross_entropy",
    "fast_global_smoother",
    "generalized_dice",
    "guided_filter",
    "guided_filter_argmin",
    "instance_norm_act",
    "matching_cost",
    "pointwise_conv",
    "separable_aspp_conv",
    "soft_mask_attention",
    "tversky",
    "up_conv",
    "weighted_median",
    "winner_takes_all",
    "wls_filter",
]
