"""The layers of :mod:`fastseg.nn` with the forward that a user of plain torch would write.

They are what networks are built of under ``backend("reference")``: for export, for comparison, and as the peers in
benchmarks. Constructors and state_dict keys are those of the fused layers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastseg.nn as fused
from fastseg.nn.context import global_mean


# What follows a norm is done in place, as in torchvision: no norm needs its output for backward.
class _PlainNormAct:
    def forward(self: Any, input: Tensor, residual: Tensor | None = None) -> Tensor:
        z = F.instance_norm(input, None, None, self.weight, self.bias, eps=self.eps)
        return _activated(self, z if residual is None else z.add_(residual))


def _activated(layer: Any, z: Tensor) -> Tensor:
    if layer.activation == "relu":
        return F.relu(z, inplace=True)
    return F.leaky_relu(z, layer.negative_slope, inplace=True) if layer.activation == "leaky_relu" else z


class InstanceNormAct2d(_PlainNormAct, fused.InstanceNormAct2d):
    """act(InstanceNorm2d(x) + residual)."""


class InstanceNormAct3d(_PlainNormAct, fused.InstanceNormAct3d):
    """act(InstanceNorm3d(x) + residual)."""


class DenseConv2d(fused.DenseConv2d):
    """torch.nn.Conv2d."""

    forward = nn.Conv2d.forward


class DenseConv3d(fused.DenseConv3d):
    """torch.nn.Conv3d."""

    forward = nn.Conv3d.forward


class DenseConvTranspose2d(fused.DenseConvTranspose2d):
    """torch.nn.ConvTranspose2d."""

    forward = nn.ConvTranspose2d.forward


class Upsample2d(fused.Upsample2d):
    """torch.nn.ConvTranspose2d."""

    forward = nn.ConvTranspose2d.forward  # type: ignore[assignment]


class Upsample3d(fused.Upsample3d):
    """torch.nn.ConvTranspose3d."""

    forward = nn.ConvTranspose3d.forward  # type: ignore[assignment]


class UpsampleConcat2d(fused.UpsampleConcat2d):
    """torch.nn.ConvTranspose2d and torch.cat."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        return torch.cat((skip, nn.ConvTranspose2d.forward(self, x)), 1)


class _PlainBatchNormAct:
    def forward(self: Any, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return self._unfused(input, residual)


class BatchNormAct2d(_PlainBatchNormAct, fused.BatchNormAct2d):
    """act(BatchNorm2d(x) + residual)."""


class BatchNormAct3d(_PlainBatchNormAct, fused.BatchNormAct3d):
    """act(BatchNorm3d(x) + residual)."""


class DepthwiseConv2d(fused.DepthwiseConv2d):
    """torch.nn.Conv2d with one filter a channel."""

    forward = nn.Conv2d.forward


class DepthwiseConv3d(fused.DepthwiseConv3d):
    """torch.nn.Conv3d with one filter a channel."""

    forward = nn.Conv3d.forward


class PointwiseConv2d(fused.PointwiseConv2d):
    """torch.nn.Conv2d with filters of one pixel."""

    forward = nn.Conv2d.forward


class PointwiseConv3d(fused.PointwiseConv3d):
    """torch.nn.Conv3d with filters of one voxel."""

    forward = nn.Conv3d.forward


class DepthwiseSeparableConv2d(fused.DepthwiseSeparableConv2d):
    """The two convolutions one after the other."""

    _depthwise, _pointwise = DepthwiseConv2d, PointwiseConv2d
    forward = nn.Sequential.forward


class DepthwiseSeparableConv3d(fused.DepthwiseSeparableConv3d):
    """The two convolutions one after the other."""

    _depthwise, _pointwise = DepthwiseConv3d, PointwiseConv3d
    forward = nn.Sequential.forward


class _PlainMultiScaleConv:
    def forward(self: Any, input: Tensor) -> Tensor:
        return torch.cat([conv(input) for conv in self], 1)


class MultiScaleConv2d(_PlainMultiScaleConv, fused.MultiScaleConv2d):
    """One separable convolution a branch, concatenated."""

    _separable = DepthwiseSeparableConv2d


class MultiScaleConv3d(_PlainMultiScaleConv, fused.MultiScaleConv3d):
    """One separable convolution a branch, concatenated."""

    _separable = DepthwiseSeparableConv3d


class _PlainASPP:
    def forward(self: Any, input: Tensor) -> Tensor:
        branches = [_activated(self, norm(conv(input))) for conv, norm in zip(self.convs, self.norms, strict=True)]
        if self.pooling is not None:
            pooled = _activated(self, self.pooling(global_mean(input)))
            branches.append(pooled.expand(-1, -1, *input.shape[2:]))
        return self.dropout(_activated(self, self.fuse_norm(self.fuse(torch.cat(branches, 1)))))


class ASPP2d(_PlainASPP, fused.ASPP2d):
    """One convolution, norm and activation a branch, concatenated and fused."""

    _pointwise = PointwiseConv2d


class ASPP3d(_PlainASPP, fused.ASPP3d):
    """One convolution, norm and activation a branch, concatenated and fused."""

    _pointwise = PointwiseConv3d


class SeparableASPP2d(_PlainASPP, fused.SeparableASPP2d):
    """:class:`ASPP2d` of depthwise-separable branches."""

    _pointwise, _separable = PointwiseConv2d, DepthwiseSeparableConv2d


class SeparableASPP3d(_PlainASPP, fused.SeparableASPP3d):
    """:class:`ASPP3d` of depthwise-separable branches."""

    _pointwise, _separable = PointwiseConv3d, DepthwiseSeparableConv3d


class ContextEnhancement(fused.ContextEnhancement):
    """Convolution by convolution."""

    _pointwise, _separable = PointwiseConv2d, DepthwiseSeparableConv2d

    def forward(self, input: Tensor) -> Tensor:
        y = self.conv(input)
        outputs = []
        for stage in self.stages:
            y = stage(y)
            outputs.append(y)
        return F.relu(self.fuse(torch.cat(outputs, 1)), inplace=True) + input


class ChannelAttention(fused.ChannelAttention):
    """sigmoid(MLP(mean) + MLP(max)) * x."""

    def forward(self, input: Tensor) -> Tensor:
        # A maximum that keeps its place: amax shares the gradient among equals, and is 2 to 5 times slower in backward.
        largest = F.adaptive_max_pool2d(input, 1) if input.ndim == 4 else F.adaptive_max_pool3d(input, 1)
        pools = (input.flatten(2).mean(2), largest.flatten(1))
        logits = sum(self.fc2(F.relu(self.fc1(pool))) for pool in pools)
        return input * torch.sigmoid(logits).view(*logits.shape, *[1] * (input.ndim - 2))


class SqueezeExcitation(fused.SqueezeExcitation):
    """sigmoid(MLP(mean)) * x."""

    def forward(self, input: Tensor) -> Tensor:
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(input.flatten(2).mean(2)))))
        return input * gate.view(*gate.shape, *[1] * (input.ndim - 2))


class SpatialAttention(fused.SpatialAttention):
    """sigmoid(norm(conv([mean; max]))) * x."""

    def forward(self, input: Tensor) -> Tensor:
        maps = [input.mean(1, keepdim=True), input.max(1, keepdim=True).values]
        logit = self.conv(torch.cat(maps[::-1] if self.order == "max_mean" else maps, 1))
        return input * torch.sigmoid(logit if self.norm is None else self.norm(logit))


class CBAM(fused.CBAM):
    """Channel attention, then spatial attention."""

    _channel, _spatial = ChannelAttention, SpatialAttention

    def forward(self, input: Tensor) -> Tensor:
        return self.spatial(self.channel(input))


class SoftMaskAttention(fused.SoftMaskAttention):
    """(1 + sigmoid(S)) * T."""

    _pointwise: ClassVar[dict[int, Any]] = {2: PointwiseConv2d, 3: PointwiseConv3d}

    def forward(self, trunk: Tensor, features: Tensor) -> Tensor:
        if self.mask is not None:
            features = self.mask(features)
        return (1 + torch.sigmoid(features)) * trunk
