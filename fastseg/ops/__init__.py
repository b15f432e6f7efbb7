"""Stateless functions on tensors, each one a registered torch op with its gradient."""

from fastseg.ops.attention_gate import attention_gate
from fastseg.ops.batch_norm import batch_norm_act
from fastseg.ops.cbam import cbam, spatial_attention
from fastseg.ops.channel_attention import channel_attention, scse, squeeze_excitation
from fastseg.ops.context import aspp_conv2d, aspp_conv3d, separable_aspp_conv2d, separable_aspp_conv3d
from fastseg.ops.cross_scale import cross_scale_aggregate
from fastseg.ops.cross_scale_levels import CrossScaleLevel, cross_scale_shapes
from fastseg.ops.dense_conv import dense_conv, dense_conv_transpose
from fastseg.ops.depthwise import (
    depthwise_conv2d,
    depthwise_conv3d,
    depthwise_conv_transpose2d,
    depthwise_conv_transpose3d,
    depthwise_instance_norm_act,
    depthwise_separable_conv2d,
    depthwise_separable_conv3d,
)
from fastseg.ops.fast_global_smoother import fast_global_smoother
from fastseg.ops.guided_filter import GuidedArgmin, guided_filter, guided_filter_argmin
from fastseg.ops.loss import dice_cross_entropy, focal_tversky, generalized_dice, tversky
from fastseg.ops.matching_cost import census_transform, matching_cost
from fastseg.ops.norm import instance_norm_act
from fastseg.ops.pointwise import pointwise_conv
from fastseg.ops.soft_mask_attention import soft_mask_attention, soft_mask_attention_conv
from fastseg.ops.up_conv import up_conv
from fastseg.ops.weighted_median import weighted_median
from fastseg.ops.winner_takes_all import Winner, winner_takes_all
from fastseg.ops.wls import wls_decompose, wls_filter, wls_solve
from fastseg.ops.wls_arguments import WLSConvergenceError, WLSConvergenceWarning
from fastseg.ops.wls_system import WLSDecomposition, WLSResult, WLSSystem

__all__ = [
    "CrossScaleLevel",
    "GuidedArgmin",
    "WLSConvergenceError",
    "WLSConvergenceWarning",
    "WLSDecomposition",
    "WLSResult",
    "WLSSystem",
    "Winner",
    "aspp_conv2d",
    "aspp_conv3d",
    "attention_gate",
    "batch_norm_act",
    "cbam",
    "census_transform",
    "channel_attention",
    "cross_scale_aggregate",
    "cross_scale_shapes",
    "dense_conv",
    "dense_conv_transpose",
    "depthwise_conv2d",
    "depthwise_conv3d",
    "depthwise_conv_transpose2d",
    "depthwise_conv_transpose3d",
    "depthwise_instance_norm_act",
    "depthwise_separable_conv2d",
    "depthwise_separable_conv3d",
    "dice_cross_entropy",
    "fast_global_smoother",
    "focal_tversky",
    "generalized_dice",
    "guided_filter",
    "guided_filter_argmin",
    "instance_norm_act",
    "matching_cost",
    "pointwise_conv",
    "scse",
    "separable_aspp_conv2d",
    "separable_aspp_conv3d",
    "soft_mask_attention",
    "soft_mask_attention_conv",
    "spatial_attention",
    "squeeze_excitation",
    "tversky",
    "up_conv",
    "weighted_median",
    "winner_takes_all",
    "wls_decompose",
    "wls_filter",
    "wls_solve",
]
