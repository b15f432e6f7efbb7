"""How a call of channel and spatial attention is shown to a kernel, and what forward keeps for backward."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# The numbers of SpatialGate in csrc/include/fastseg/cbam.h.
SPATIAL = {"none": 0, "pooled": 1, "projected": 2}


class Weights(NamedTuple):
    """Dense parameters in the dtype that kernels compute in, or None: CbamWeights of cbam.h."""

    fc1_weight: Tensor | None
    fc1_bias: Tensor | None
    fc2_weight: Tensor | None
    fc2_bias: Tensor | None
    spatial_weight: Tensor | None
    spatial_bias: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None


class Saved(NamedTuple):
    """What forward writes and backward reads; empty where the call does not need it. CbamSaved of cbam.h."""

    pooled: Tensor  # (N, 2, C): mean and maximum over space
    peak: Tensor  # (N, C), int64: the first pixel that has the maximum
    channel_gate: Tensor  # (N, C)
    maps: Tensor  # (N, 2, *spatial): mean and maximum over channels of x * channel_gate
    peak_channel: Tensor  # (N, *spatial), int32: the first channel that has the maximum
    logits: Tensor  # (N, *spatial): what the convolution gave, before the batch norm
    statistics: Tensor  # (2,), float64: mean and biased variance of the logits
    spatial_gate: Tensor  # (N, *spatial)


class Gradients(NamedTuple):
    """Of the parameters, in the dtype that kernels compute in; empty where there is no such parameter."""

    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor
    spatial_weight: Tensor
    spatial_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


def weights_for(x: Tensor, *parameters: Tensor | None) -> Weights:
    compute = torch.promote_types(x.dtype, torch.float32)
    return Weights(*(None if t is None else t.to(compute).contiguous() for t in parameters))


def new_saved(x: Tensor, channel: bool, spatial: str, normalize: bool) -> Saved:
    """Uninitialised."""
    compute = torch.promote_types(x.dtype, torch.float32)
    batch, channels, *size = x.shape
    pooled, gated = spatial == "pooled", spatial != "none"

    def empty(wanted: bool, *shape: int, dtype: torch.dtype = compute) -> Tensor:
        return x.new_empty(shape if wanted else (0,), dtype=dtype)

    return Saved(
        empty(channel, batch, 2, channels),
        empty(channel, batch, channels, dtype=torch.int64),
        empty(channel, batch, channels),
        empty(pooled, batch, 2, *size),
        empty(pooled, batch, *size, dtype=torch.int32),
        empty(normalize, batch, *size),
        empty(normalize, 2, dtype=torch.float64),
        empty(gated, batch, *size),
    )


def new_gradients(x: Tensor, *parameters: Tensor | None) -> Gradients:
    """Uninitialised."""
    compute = torch.promote_types(x.dtype, torch.float32)
    return Gradients(*(x.new_empty((0,) if t is None else t.shape, dtype=compute) for t in parameters))
