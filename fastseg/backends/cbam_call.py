"""How a call of channel and spatial attention is shown to a kernel, and what forward keeps for backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

    pooled: Tensor  # (N, pools, C): mean, and with max_pool the maximum, over space
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


# Registered ops hand over needed tensors alone: a small call spends most of its time on making tensors.


def needed(channel: bool, spatial: str, max_pool: bool, normalize: bool) -> tuple[bool, ...]:
    """Which fields of :class:`Saved` a call needs."""
    pooled = spatial == "pooled"
    return (channel, channel and max_pool, channel, pooled, pooled, normalize, normalize, spatial != "none")


def without_empty(fields: Iterable[Tensor], which: Iterable[bool]) -> list[Tensor]:
    """The needed fields of Saved or Gradients, in their order."""
    return [t for t, needs in zip(fields, which, strict=True) if needs]


def with_empty(tensors: Sequence[Tensor], which: Sequence[bool], x: Tensor) -> Iterator[Tensor]:
    """Undoes :func:`without_empty`: an empty tensor for each field that is not needed."""
    assert len(tensors) == sum(which)
    left, empty = iter(tensors), x.new_empty((0,))
    return (next(left) if needs else empty for needs in which)


def weights_for(x: Tensor, *parameters: Tensor | None) -> Weights:
    compute = torch.promote_types(x.dtype, torch.float32)
    dense = (
        t if t is None or (t.dtype == compute and t.is_contiguous()) else t.to(compute).contiguous() for t in parameters
    )
    return Weights(*dense)


def new_saved(x: Tensor, which: Sequence[bool], max_pool: bool) -> Saved:
    """Uninitialised; ``which``: of :func:`needed`."""
    compute = torch.promote_types(x.dtype, torch.float32)
    batch, channels, *size = x.shape
    pools = 2 if max_pool else 1
    left, nothing = iter(which), x.new_empty((0,))

    def empty(*shape: int, dtype: torch.dtype = compute) -> Tensor:
        return x.new_empty(shape, dtype=dtype) if next(left) else nothing

    return Saved(
        empty(batch, pools, channels),
        empty(batch, channels, dtype=torch.int64),
        empty(batch, channels),
        empty(batch, 2, *size),
        empty(batch, *size, dtype=torch.int32),
        empty(batch, *size),
        empty(2, dtype=torch.float64),
        empty(batch, *size),
    )


def new_gradients(x: Tensor, *parameters: Tensor | None) -> Gradients:
    """Uninitialised."""
    compute = torch.promote_types(x.dtype, torch.float32)
    nothing = x.new_empty((0,))
    return Gradients(*(nothing if t is None else x.new_empty(t.shape, dtype=compute) for t in parameters))
