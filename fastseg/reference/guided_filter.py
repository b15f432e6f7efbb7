"""Reference of the guided filter: windows as matrices, one for each image axis, and a small system for each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

# The arguments of these functions are those of fastseg.ops.


def guided_filter(
    guide: Tensor, src: Tensor, *, radius: int, eps: float, border: str = "truncate", subsample: int = 1
) -> Tensor:
    compute = torch.promote_types(src.dtype, torch.float32)
    image = guide.to(compute)
    if guide.ndim == 2:
        image = image.unsqueeze(0)
    image = image - image.mean((-2, -1), keepdim=True)  # changes nothing but the rounding
    colours = list(image.unbind(-3))
    if guide.ndim == 4:  # (B, H, W) beside (B, C, H, W)
        colours = [colour.unsqueeze(1) for colour in colours]
    low = [colour[..., ::subsample, ::subsample] for colour in colours]
    p = src.to(compute)[..., ::subsample, ::subsample]
    size = p.shape[-2:]
    rows, columns = (box_matrix(n, reduced_radius(radius, subsample), border).to(p.device, p.dtype) for n in size)

    def mean(t: Tensor) -> Tensor:
        return rows @ t @ columns.mT

    means = [mean(colour) for colour in low]
    mean_p = mean(p)
    covariance = [mean(colour * p) - centre * mean_p for colour, centre in zip(low, means, strict=True)]
    variance = [
        [mean(low[i] * low[j]) - means[i] * means[j] + (eps if i == j else 0.0) for j in range(len(low))]
        for i in range(len(low))
    ]
    a = _solve(variance, covariance)
    b = mean_p - _dot(a, means)
    a, b = [mean(slope) for slope in a], mean(b)
    if subsample > 1:
        up, across = (interpolation_matrix(n, subsample).to(p.device, p.dtype) for n in src.shape[-2:])
        a, b = [up @ slope @ across.mT for slope in a], up @ b @ across.mT
    q = _dot(a, colours) + b
    if not src.dtype.is_floating_point:
        q = q.round().clamp(0, 255)
    return q.to(src.dtype)


def guided_filter_argmin(
    guide: Tensor, costs: Tensor, *, radius: int, eps: float, border: str = "truncate"
) -> tuple[Tensor, Tensor]:
    wide = costs.to(torch.promote_types(costs.dtype, torch.float32))
    cost, index = guided_filter(guide, wide, radius=radius, eps=eps, border=border).min(-3)
    return index, cost


def reduced_radius(radius: int, subsample: int) -> int:
    """The radius on the coarse grid: rounded, and a window stays a window."""
    return max((radius + subsample // 2) // subsample, min(radius, 1))


def box_matrix(size: int, radius: int, border: str) -> Tensor:
    """(size, size): row i has the weights of the window of pixel i, which add up to 1."""
    pixels = torch.arange(size)
    if border == "truncate":
        inside = ((pixels[:, None] - pixels).abs() <= radius).double()
        return inside / inside.sum(1, keepdim=True)
    inner = size if border == "reflect" else size - 1
    folded = torch.cat((pixels, pixels.flip(0)[size - inner : inner]))  # one period of the line extended
    whole, rest = divmod(2 * radius + 1, len(folded))
    window = folded[(pixels[:, None] - radius + torch.arange(rest)) % len(folded)]
    counts = (whole * torch.bincount(folded, minlength=size).double()).repeat(size, 1)
    return counts.scatter_add_(1, window, torch.ones(window.shape, dtype=torch.float64)) / (2 * radius + 1)


def interpolation_matrix(size: int, subsample: int) -> Tensor:
    """(size, coarse size): from samples at every ``subsample``-th pixel to all pixels, linear; constant at the end."""
    coarse = -(-size // subsample)
    place = torch.arange(size).double() / subsample
    distance = (place.clamp(max=coarse - 1)[:, None] - torch.arange(coarse)).abs()
    return (1 - distance).clamp(min=0)


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = total + x * y
    return total


def _solve(matrix: list[list[Tensor]], right: list[Tensor]) -> list[Tensor]:
    """Gaussian elimination of symmetric positive definite systems, one for each pixel.

    Inverting by cofactors would lose all digits where eps is small beside the guide's variance.
    """
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        for j in range(i + 1, len(rows)):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [e - factor * p for e, p in zip(rows[j], rows[i], strict=True)]
    solution: list[Tensor] = []
    for row in reversed(rows):
        known = row[len(rows) - len(solution) : -1]
        value = row[-1] if not solution else row[-1] - _dot(known, solution)
        solution.insert(0, value / row[len(rows) - len(solution) - 1])
    return solution
