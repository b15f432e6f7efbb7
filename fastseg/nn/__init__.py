"""Layers over :mod:`fastseg.ops`, with the arguments and state_dict keys of torch's own."""

from fastseg.nn.attention_gate import AttentionGate
from fastseg.nn.batch_norm import BatchNormAct2d, BatchNormAct3d
from fastseg.nn.cbam import CBAM, SCSE, ChannelAttention, SpatialAttention, SqueezeExcitation
from fastseg.nn.context import ASPP2d, ASPP3d, ContextEnhancement, SeparableASPP2d, SeparableASPP3d
from fastseg.nn.dense_conv import (
    DenseConv2d,
    DenseConv3d,
    DenseConvTranspose2d,
    DenseConvTranspose3d,
    SameConv2d,
    SameConv3d,
)
from fastseg.nn.depthwise import (
    DepthwiseConv2d,
    DepthwiseConv3d,
    DepthwiseConvTranspose2d,
    DepthwiseConvTranspose3d,
    DepthwiseSeparableConv2d,
    DepthwiseSeparableConv3d,
    PointwiseConv2d,
    PointwiseConv3d,
)
from fastseg.nn.loss import DiceCrossEntropyLoss, FocalTverskyLoss, GeneralizedDiceLoss, TverskyLoss
from fastseg.nn.multi_scale import MultiScaleConv2d, MultiScaleConv3d
from fastseg.nn.norm import GroupNormAct, InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d
from fastseg.nn.soft_mask_attention import SoftMaskAttention
from fastseg.nn.upsample import Upsample2d, Upsample3d, UpsampleConcat2d

__all__ = [
    "CBAM",
    "SCSE",
    "ASPP2d",
    "ASPP3d",
    "AttentionGate",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "ChannelAttention",
    "ContextEnhancement",
    "DenseConv2d",
    "DenseConv3d",
    "DenseConvTranspose2d",
    "DenseConvTranspose3d",
    "DepthwiseConv2d",
    "DepthwiseConv3d",
    "DepthwiseConvTranspose2d",
    "DepthwiseConvTranspose3d",
    "DepthwiseSeparableConv2d",
    "DepthwiseSeparableConv3d",
    "DiceCrossEntropyLoss",
    "FocalTverskyLoss",
    "GeneralizedDiceLoss",
    "GroupNormAct",
    "InstanceNormAct1d",
    "InstanceNormAct2d",
    "InstanceNormAct3d",
    "MultiScaleConv2d",
    "MultiScaleConv3d",
    "PointwiseConv2d",
    "PointwiseConv3d",
    "SameConv2d",
    "SameConv3d",
    "SeparableASPP2d",
    "SeparableASPP3d",
    "SoftMaskAttention",
    "SpatialAttention",
    "SqueezeExcitation",
    "TverskyLoss",
    "Upsample2d",
    "Upsample3d",
    "UpsampleConcat2d",
]
