"""Reference of matching costs and the census transform: one disparity, one neighbour after another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The arguments of these functions are those of fastseg.ops.


def matching_cost(
    left: Tensor,
    right: Tensor,
    *,
    max_disparity: int,
    min_disparity: int = 0,
    view: str = "left",
    cost: str = "weighted",
    ad_weight: float = 0.11,
    gradient_weight: float = 0.89,
    census_weight: float = 0.0,
    ad_threshold: float = 7 / 255,
    gradient_threshold: float = 2 / 255,
    census_window: tuple[int, int] = (7, 9),
    outside: float = 3 / 255,
    ad_scale: float = 15 / 255,
    census_scale: float = 35.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    # float64 as dtype makes everything exact, whatever the images are.
    compute = torch.promote_types(torch.promote_types(left.dtype, torch.float32), dtype)
    images = (left, right) if view == "left" else (right, left)
    colours, others = (_channels(image).to(compute) / _unit(image) for image in images)
    slope, other_slope = _gradient(colours), _gradient(others)
    words, other_words = (census_transform(image, window=census_window) for image in images)
    bits = census_window[0] * census_window[1] - 1
    slices = []
    for disparity in range(min_disparity, max_disparity):
        shift = disparity if view == "left" else -disparity
        ad = (colours - _shifted(others, shift, outside)).abs().mean(-3)
        gradient = (slope - _shifted(other_slope, shift, outside)).abs()
        inside = _shifted(torch.ones_like(words), shift, 0).bool().all(-3)
        ones = torch.where(inside, _count_ones(words ^ _shifted(other_words, shift, 0)).sum(-3), bits).to(compute)
        if cost == "ad_census":
            slices.append(2 - torch.exp(-ones / census_scale) - torch.exp(-ad / ad_scale))
        else:
            total = ad_weight * ad.clamp(max=ad_threshold) + gradient_weight * gradient.clamp(max=gradient_threshold)
            slices.append(total + census_weight / bits * ones)
    return torch.stack(slices, -3).to(dtype)


def census_transform(image: Tensor, *, window: tuple[int, int] = (7, 9)) -> Tensor:
    colours = _channels(image).detach().float()
    grey = colours[..., 0, :, :]
    if colours.shape[-3] == 3:  # in float64, where the products are exact: the same bits wherever it is computed
        red, green, blue = colours.double().unbind(-3)
        grey = ((299 * red + 587 * green) + 114 * blue).float()
    height, width = grey.shape[-2:]
    rows, columns = window
    places = [(y, x) for y in range(rows) for x in range(columns) if (y, x) != (rows // 2, columns // 2)]
    words = torch.zeros((-(-len(places) // 64), *grey.shape), dtype=torch.int64, device=grey.device)
    for bit, (y, x) in enumerate(places):
        near_rows = (torch.arange(height, device=grey.device) + y - rows // 2).clamp(0, height - 1)
        near_columns = (torch.arange(width, device=grey.device) + x - columns // 2).clamp(0, width - 1)
        neighbour = grey.index_select(-2, near_rows).index_select(-1, near_columns)
        words[bit // 64] |= (neighbour < grey).long() << bit % 64
    return words.movedim(0, -3)


def _channels(image: Tensor) -> Tensor:
    return image.unsqueeze(0) if image.ndim == 2 else image


def _unit(image: Tensor) -> int:
    return 1 if image.dtype.is_floating_point else 255


def _gradient(colours: Tensor) -> Tensor:
    """Along x: central differences halved, one-sided ones in the first and the last column."""
    grey = colours[..., 0, :, :]
    if colours.shape[-3] == 3:
        red, green, blue = colours.unbind(-3)
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
    if grey.shape[-1] == 1:
        return torch.zeros_like(grey)
    steps = grey.diff(dim=-1)
    inside = (grey[..., 2:] - grey[..., :-2]) / 2
    return torch.cat((steps[..., :1], inside, steps[..., -1:]), -1)


def _shifted(t: Tensor, shift: int, outside: float) -> Tensor:
    """t at x - shift, and ``outside`` where that is beyond a side."""
    return F.pad(t, (shift, -shift), value=outside)


def _count_ones(words: Tensor) -> Tensor:
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    return (((words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F) * 0x0101010101010101) >> 56
