"""Cross-scale aggregation as it is written today: a weighted sum of volumes, pyramids looked up by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fastseg.ops import cross_scale_aggregate
from fastseg.reference.cross_scale import coupling_weights

LAMBDA = 0.3
Function = Callable[[Sequence[Tensor]], object]


def fastseg(costs: Sequence[Tensor]) -> Tensor:
    return cross_scale_aggregate(costs, lambda_=LAMBDA)


def eager(costs: Sequence[Tensor]) -> Tensor:
    shape = costs[0].shape
    weights = coupling_weights(len(costs), LAMBDA)
    result = weights[0] * costs[0]
    for s, (weight, cost) in enumerate(zip(weights[1:], costs[1:], strict=True), 1):
        level = cost
        if level.shape != shape:
            d, y, x = (torch.arange(size) for size in shape)
            # One axis after another: three times as fast as one index of all three.
            level = level[:, :, x >> s][:, y >> s][(d + (1 << s) - 1) >> s]
        result = torch.add(result, level, alpha=weight)
    return result


def compiled() -> Function:
    torch._dynamo.reset()
    return torch.compile(eager, fullgraph=True)


def in_numpy(costs: Sequence[Tensor]) -> np.ndarray:
    shape = costs[0].shape
    weights = coupling_weights(len(costs), LAMBDA)
    result = np.float32(weights[0]) * costs[0].numpy()
    for s, (weight, cost) in enumerate(zip(weights[1:], costs[1:], strict=True), 1):
        level = cost.numpy()
        if level.shape != shape:
            d, y, x = (np.arange(size) for size in shape)
            level = level[:, :, x >> s][:, y >> s][(d + (1 << s) - 1) >> s]
        result += np.float32(weight) * level
    return result


#: name -> how the function is made
CROSS_SCALE_PEERS: dict[str, Callable[[], Function]] = {
    "fastseg": lambda: fastseg,
    "eager": lambda: eager,
    "torch.compile": compiled,
    "NumPy": lambda: in_numpy,
}
