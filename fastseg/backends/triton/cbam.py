"""Channel and spatial attention in Triton.

Bytes to move, in u, one pass over the tensor (the gates and the maps are 1/C of it and less):

               forward                                       backward
    CBAM       4u: read x for the pools, for the maps        5u: read grad and x for the gates' gradients, x for the
               over channels and for y, write y              maps' share in the channel gate, grad for dx, write dx
    channels   3u: read x twice, write y                     4u: read grad and x, read grad, write dx

Dense layers and the convolution of the two maps are torch's own: cbam_gates.py. Sums over pixels lie in a slot for each
part of the pixels and are added by torch; no atomics: results are deterministic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastseg.backends import cbam_gates as gates
from fastseg.backends.cbam_call import SPATIAL, Gradients, Saved, needed, new_saved, weights_for
from fastseg.backends.triton import cbam_kernels as kernels
from fastseg.backends.triton.tensors import Strided, alignment, compute_dtype, launch, strided
from fastseg.backends.views import Layout, as_layout, layout_of, new_output

TILE_BYTES = 8 * 1024  # of one tensor as computed with
ENOUGH_PROGRAMS = 264  # of kernels that go over all channels: two for each multiprocessor of an H100
POOL_PROGRAMS = 1320  # twice as many as an H100 runs at once: each reduces over its lanes once, at its end


class Plan(NamedTuple):
    """One program's tile, and what every kernel is told of the shape."""

    batch: int
    channels: int
    spatial: int
    warps: int
    constants: dict[str, int | bool]

    @property
    def pixel_tiles(self) -> int:
        return triton.cdiv(self.spatial, self.constants["BLOCK_S"])

    @property
    def channel_blocks(self) -> int:
        return triton.cdiv(self.channels, self.constants["BLOCK_C"])


def plan(x: Tensor, layout: Layout, views: tuple[Strided | None, ...]) -> Plan:
    batch, channels = x.shape[:2]
    spatial = x.shape[2:].numel()
    elements = TILE_BYTES // compute_dtype(x.dtype).itemsize
    inner, axis = (spatial, "BLOCK_S") if layout == "rows" else (channels, "BLOCK_C")
    along = min(triton.next_power_of_2(inner), 256 if layout == "rows" else 64)
    while layout == "rows" and along > 32 and batch * triton.cdiv(spatial, along) < ENOUGH_PROGRAMS:
        along //= 2
    across = elements // along
    if layout == "rows":
        across = min(across, triton.next_power_of_2(channels))
    blocks = {"BLOCK_S": across, "BLOCK_C": across} | {axis: along}
    constants = {"CHANNELS_LAST": layout == "channels_last", "ALIGN": alignment(inner, *views), **blocks}
    return Plan(batch, channels, spatial, 4, constants)


def cbam_forward(
    x: Tensor,
    parameters: Iterable[Tensor | None],
    spatial: str,
    max_pool: bool,
    max_first: bool,
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Saved]:
    layout = layout_of(x) or "rows"
    x = as_layout(x, layout)
    weights = weights_for(x, *parameters)
    channel = weights.fc1_weight is not None
    y = new_output(x, x.shape[1], x.shape[2:], layout)
    saved = new_saved(x, needed(channel, spatial, max_pool, normalize), max_pool)
    source, target = strided(x, layout), strided(y, layout)
    p = plan(x, layout, (source, target))
    sizes = p.channels, p.spatial
    gate = saved.channel_gate if channel else None
    with torch.cuda.device_of(x):
        if channel:
            _pool(p, source, saved, max_pool)
            saved.channel_gate.copy_(gates.channel_gate(weights, saved.pooled))
        programs = p.batch * p.pixel_tiles
        if spatial == "pooled":
            launch(kernels.mix, programs, p.warps, source, gate, saved.maps, saved.peak_channel, *sizes, **p.constants)
            logits = gates.spatial_logits(weights, saved.maps, max_first)
            if normalize:
                saved.logits.copy_(logits)
                saved.statistics.copy_(torch.stack(torch.var_mean(logits.double(), correction=0)).flip(0))
                logits = gates.normalized_logits(weights, logits, saved.statistics, eps)
            torch.sigmoid(logits, out=saved.spatial_gate)
        elif spatial == "projected":
            launch(
                kernels.project, programs, p.warps,
                source, weights.spatial_weight, saved.spatial_gate, *sizes, **p.constants,
            )  # fmt: skip
            if weights.spatial_bias is not None:
                saved.spatial_gate.add_(weights.spatial_bias)
            saved.spatial_gate.sigmoid_()
        launch(
            kernels.scale, programs * p.channel_blocks, p.warps, source, gate, saved.spatial_gate, target, *sizes,
            KIND=SPATIAL[spatial], COMPUTE=_compute(x), **p.constants,
        )  # fmt: skip
    return y, saved


def _pool(p: Plan, source: Strided | None, saved: Saved, max_pool: bool) -> None:
    wanted = triton.cdiv(POOL_PROGRAMS, p.batch * p.channel_blocks)
    chunk = triton.cdiv(p.pixel_tiles, wanted) * p.constants["BLOCK_S"]
    parts = triton.cdiv(p.spatial, chunk)
    sums = saved.channel_gate.new_empty((p.batch, p.channels, parts))
    peaks = torch.empty_like(sums) if max_pool else None
    places = torch.empty_like(sums, dtype=torch.int64) if max_pool else None
    programs = p.batch * p.channel_blocks * parts
    sizes = p.channels, p.spatial, parts, chunk
    launch(kernels.pool, programs, p.warps, source, sums, peaks, places, *sizes, **p.constants)
    saved.pooled[:, 0] = sums.sum(2) / p.spatial
    if peaks is not None and places is not None:
        largest = peaks.amax(2, keepdim=True)
        has = (peaks == largest) | (peaks.isnan() & largest.isnan())
        saved.peak.copy_(places.masked_fill(~has, torch.iinfo(torch.int64).max).amin(2))
        saved.pooled[:, 1] = largest[..., 0]


def cbam_backward(
    grad: Tensor,
    x: Tensor,
    parameters: Iterable[Tensor | None],
    saved: Saved,
    spatial: str,
    max_pool: bool,
    max_first: bool,
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Gradients]:
    layout = layout_of(x) or "rows"
    x, grad = as_layout(x, layout), as_layout(grad, layout)
    weights = weights_for(x, *parameters)
    channel, pooled = weights.fc1_weight is not None, spatial == "pooled"
    dx = new_output(x, x.shape[1], x.shape[2:], layout)
    source, incoming, target = (strided(t, layout) for t in (x, grad, dx))
    p = plan(x, layout, (source, incoming, target))
    sizes = p.channels, p.spatial
    programs, kind = p.batch * p.pixel_tiles, SPATIAL[spatial]
    gate = saved.channel_gate if channel else None
    places = saved.peak_channel if pooled else None
    gradients: dict[str, Tensor] = {}
    offset = peak = dpeak = dmaps = None
    with torch.cuda.device_of(x):
        sums = x.new_empty((p.batch, p.channels, p.pixel_tiles), dtype=compute_dtype(x.dtype))
        dspatial = torch.empty_like(saved.spatial_gate)
        launch(
            kernels.gate_gradients, programs, p.warps,
            incoming, source, gate, saved.spatial_gate, dspatial, sums, *sizes, KIND=kind, **p.constants,
        )  # fmt: skip
        dgate = sums.sum(2)
        if spatial != "none":
            dmaps = dspatial * saved.spatial_gate * (1 - saved.spatial_gate)
            if normalize:
                dmaps, gradients["norm_weight"], gradients["norm_bias"] = gates.normalized_logits_backward(
                    weights, saved, dmaps, eps
                )
            if pooled:
                dmaps, gradients["spatial_weight"], gradients["spatial_bias"] = gates.spatial_logits_backward(
                    weights, saved.maps, dmaps, max_first
                )
                # Of the sum over channels rather than of the mean.
                dmaps = torch.cat((dmaps[:, :1] / p.channels, dmaps[:, 1:]), 1)
            else:
                gradients["spatial_bias"] = dmaps.sum().view(1)
            if channel or not pooled:
                mixed = torch.empty_like(sums)
                launch(kernels.mix_gradients, programs, p.warps, source, dmaps, places, mixed, *sizes, **p.constants)
                if pooled:
                    dgate = dgate + mixed.sum(2)
                else:
                    gradients["spatial_weight"] = mixed.sum((0, 2)).view(gates.present(weights.spatial_weight).shape)
        if channel:
            dpools, *of_layers = gates.channel_gate_backward(weights, saved, dgate)
            gradients |= zip(("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"), of_layers, strict=True)
            offset = dpools[:, 0] / p.spatial
            if max_pool:
                peak, dpeak = saved.peak, dpools[:, 1].contiguous()
        weight = gate if pooled else weights.spatial_weight
        launch(
            kernels.spread, programs * p.channel_blocks, p.warps,
            incoming, gate, saved.spatial_gate, weight, dmaps, places, offset, peak, dpeak, target, *sizes,
            p.batch if pooled else 1, KIND=kind, COMPUTE=_compute(x), **p.constants,
        )  # fmt: skip
    nothing = x.new_empty((0,))
    return dx, Gradients(
        *(
            gradients[name] if parameter is not None else nothing
            for name, parameter in zip(weights._fields, weights, strict=True)
        )
    )


def _compute(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
