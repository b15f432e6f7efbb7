"""Cross-modal attention: how much each modality counts at each pixel when they are fused."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastseg.models.norm_act import Norm, dimensional, norm_relu


class ModalityAttention(nn.Module):
    """Features of M modalities times weights of a softmax over the modalities, pixel by pixel.

    Each modality has a query and a key of its own features. The query of one meets the keys of the others; a softmax
    over these says where it looks. A modality's weight is the mean of what it gets from all queries, times M, so that
    the weights of a pixel have the mean one.

    Args:
        modalities: M.
        channels: of each modality; the input is (N, M * channels, *spatial), modality by modality.
        spatial_dims: 2 or 3.
        attention_channels: of queries and keys.
        own_key: a query meets its own modality's key too.
    """

    def __init__(
        self, modalities: int, channels: int, spatial_dims: int, attention_channels: int, own_key: bool
    ) -> None:
        super().__init__()
        self.modalities, self.own_key = modalities, own_key
        self.query_key = dimensional("PointwiseConv", spatial_dims)(
            modalities * channels, 2 * modalities * attention_channels, bias=False, groups=modalities
        )

    def forward(self, features: Tensor) -> Tensor:
        weights = self.weights(features).unsqueeze(2)
        return (features.unflatten(1, (self.modalities, -1)) * weights).flatten(1, 2)

    def weights(self, features: Tensor) -> Tensor:
        """(N, M, *spatial): the weights of the modalities, of mean one."""
        projected = self.query_key(features).movedim(1, -1)
        # One small matrix product a pixel; of a channels-last image these are views.
        pixels = projected.reshape(-1, self.modalities, projected.shape[-1] // self.modalities)
        query, key = pixels.chunk(2, 2)
        scores = torch.bmm(query, key.transpose(1, 2)) / math.sqrt(key.shape[2])
        if not self.own_key:
            own = torch.eye(self.modalities, dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(own, -math.inf)
        weights = torch.softmax(scores, 2).sum(1).to(features.dtype)
        return weights.view(*projected.shape[:-1], self.modalities).movedim(-1, 1)


class ModalityFusion(nn.Module):
    """A stem for each modality, attention over the modalities, and a 1x1 convolution that fuses them.

    Args:
        modalities: channels of the image, (N, M, *spatial).
        out_channels: of the result.
        channels: of each stem.
        spatial_dims, norm, attention_channels, own_key: as in :class:`fastseg.models.msfen.MSFEN`.
    """

    def __init__(
        self,
        modalities: int,
        out_channels: int,
        channels: int,
        spatial_dims: int,
        norm: Norm,
        attention_channels: int,
        own_key: bool,
    ) -> None:
        super().__init__()
        inner = modalities * channels
        # One input channel a modality and several filters for it: a depthwise convolution.
        self.stem = dimensional("DepthwiseConv", spatial_dims)(
            modalities, 3, padding=1, bias=False, channel_multiplier=channels
        )
        self.stem_norm = norm_relu(norm, inner, spatial_dims)
        # A softmax over one key is one.
        keys = modalities if own_key else modalities - 1
        self.attention: nn.Module = nn.Identity()
        if keys > 1:
            self.attention = ModalityAttention(modalities, channels, spatial_dims, attention_channels, own_key)
        self.fuse = dimensional("PointwiseConv", spatial_dims)(inner, out_channels, bias=False)
        self.fuse_norm = norm_relu(norm, out_channels, spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        features = self.attention(self.stem_norm(self.stem(x)))
        fused: Tensor = self.fuse_norm(self.fuse(features))
        return fused
