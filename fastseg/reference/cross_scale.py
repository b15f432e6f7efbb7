"""Reference of cross-scale aggregation: every level filtered and brought to full size, then a weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.reference.guided_filter import guided_filter

# The arguments of these functions are those of fastseg.ops.


def cross_scale_aggregate(
    costs: Sequence[Tensor],
    *,
    lambda_: float = 0.3,
    min_disparity: int = 0,
    guide: Tensor | Sequence[Tensor] | None = None,
    radius: int = 9,
    eps: float = 1e-4,
    border: str = "truncate",
) -> Tensor:
    shape, dtype = costs[0].shape, costs[0].dtype
    levels = [cost.to(torch.promote_types(dtype, torch.float32)) for cost in costs]
    if guide is not None:
        guides = [guide] * len(levels) if isinstance(guide, Tensor) else guide
        levels = [
            guided_filter(image, level, radius=radius, eps=eps, border=border)
            for image, level in zip(guides, levels, strict=True)
        ]
    if any(level.shape != shape for level in levels):
        levels = [look_up(level, scale, shape, min_disparity) for scale, level in enumerate(levels)]
    weighted = [weight * level for weight, level in zip(coupling_weights(len(levels), lambda_), levels, strict=True)]
    return torch.stack(weighted).sum(0).to(dtype)


def look_up(level: Tensor, scale: int, shape: Sequence[int], min_disparity: int) -> Tensor:
    """Level ``scale`` of a pyramid at the finest level's size.

    Taking (x / 2, y / 2, (d + 1) / 2) once for each level is taking x and y over 2^scale and rounding down, and the
    disparity over 2^scale and rounding up.
    """
    step = 2**scale
    disparities, rows, columns = (torch.arange(size, device=level.device) for size in shape[-3:])
    disparities = -(-(min_disparity + disparities) // step) + (-min_disparity // step)
    return level[..., disparities[:, None, None], (rows // step)[:, None], columns // step]


def coupling_weights(levels: int, lambda_: float) -> list[float]:
    """Row 0 of A^-1, A tridiagonal: 1 + lambda at the ends, 1 + 2 lambda between, -lambda beside the diagonal.

    Gaussian elimination from the coarsest level on; its pivots are lambda + q and at last q. Written in q, which lies
    between 1 and ``levels``, nothing cancels.
    """
    pivots = [1.0]
    for _ in range(levels - 1):
        pivots.append(1 + pivots[-1] * (lambda_ / (lambda_ + pivots[-1])))
    weights = [1 / pivots.pop()]
    while pivots:
        weights.append(weights[-1] * (lambda_ / (lambda_ + pivots.pop())))
    return weights
