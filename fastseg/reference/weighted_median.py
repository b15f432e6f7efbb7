"""Reference of the weighted median: windows sorted by their values, some pixels at a time."""

from __future__ import annotations

import torch
from torch import Tensor

# The arguments of these functions are those of fastseg.ops.

#: Numbers of windows that are in memory at a time.
_ELEMENTS = 1 << 22


def weighted_median(
    src: Tensor,
    guide: Tensor,
    *,
    radius: int = 9,
    sigma_color: float = 0.1,
    sigma_space: float = 9.0,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    compute = torch.promote_types(src.dtype, torch.float32)
    height, width = src.shape[-2:]
    values = src.reshape(-1, height, width)
    guides = guide.to(compute).reshape((1,) * (4 - guide.ndim) + tuple(guide.shape))
    channels = max(len(values) // max(len(guides), 1), 1)  # of each guide
    given = None if weights is None else weights.to(compute).expand(src.shape).reshape(values.shape)
    wanted = src.new_ones(src.shape, dtype=torch.bool) if mask is None else mask.expand(src.shape)
    reach = torch.arange(-radius, radius + 1, device=src.device)
    dy, dx = (offsets.reshape(-1) for offsets in torch.meshgrid(reach, reach, indexing="ij"))
    near = (dy.square() + dx.square()).to(compute) / sigma_space**2
    result = values.clone()
    for pixels in wanted.reshape(values.shape).nonzero().split(max(_ELEMENTS // len(near), 1)):
        n, y, x = pixels.T.unsqueeze(-1)
        rows, columns = y + dy, x + dx
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        steps = guides[n // channels, :, rows, columns] - guides[n // channels, :, y, x]
        exponent = steps.square().sum(-1) / sigma_color**2 + near
        weight = inside.to(compute) if given is None else inside * given[n, rows, columns]
        # Only ratios matter, and so nothing vanishes where all pixels that count are far off.
        nearest = exponent.masked_fill(weight == 0, torch.inf).amin(1, keepdim=True)
        weight = torch.where(weight > 0, weight * torch.exp(nearest - exponent), 0)
        ordered, order = values[n, rows, columns].sort(1)
        up_to = weight.gather(1, order).cumsum(1)
        total = up_to[:, -1:]
        middle = (up_to >= total / 2).int().argmax(1, keepdim=True)
        result[n, y, x] = torch.where(total > 0, ordered.gather(1, middle), values[n, y, x])
    return result.view(src.shape)
