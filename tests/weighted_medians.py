"""What tests of the weighted median share: the definition as a property of a result, within the rounding of sums."""

from __future__ import annotations

import torch
from torch import Tensor


def random_mask(*shape: int, seed: int = 0) -> Tensor:
    """A third of the pixels."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(100 + seed)) < 1 / 3


def random_weights(*shape: int) -> Tensor:
    """A third of them is 0."""
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    return torch.where(weights < 1 / 3, 0, weights)


def assert_weighted_median(
    actual: Tensor,
    src: Tensor,
    guide: Tensor,
    *,
    radius: int,
    sigma_color: float,
    sigma_space: float,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> None:
    """A value of the window that weighs something: up to it half of the weights, and below it less than half.

    Weights are those of float64, added up here offset by offset, and half of them is known up to what the exponents,
    exponentials and sums of the type computed in may round. Pixels outside of the mask, and windows without weight,
    must be those of src.
    """
    compute = torch.promote_types(src.dtype, torch.float32)
    height, width = src.shape[-2:]
    values, result = src.double(), actual.double()
    colours = guide.to(compute).double()
    if guide.ndim < 4:
        colours = colours.reshape(-1, height, width)
    given = torch.ones_like(values) if weights is None else weights.to(compute).double().expand(src.shape)

    def neighbours():  # two windows of the image, and the exponents between their pixels
        for dy in range(-min(radius, height - 1), min(radius, height - 1) + 1):
            for dx in range(-min(radius, width - 1), min(radius, width - 1) + 1):
                here = ..., slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
                there = ..., slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
                distance = (colours[there] - colours[here]).square().sum(-3, keepdim=guide.ndim == 4)
                yield here, there, distance / sigma_color**2 + (dy * dy + dx * dx) / sigma_space**2

    nearest = torch.full_like(values, float("inf"))
    for here, there, exponent in neighbours():
        nearest[here] = torch.minimum(nearest[here], torch.where(given[there] > 0, exponent, float("inf")))
    total, up_to, below, rounding = (torch.zeros_like(values) for _ in range(4))
    chosen = torch.zeros_like(values, dtype=torch.bool)
    for here, there, exponent in neighbours():
        weight = torch.where(given[there] > 0, given[there] * torch.exp(nearest[here] - exponent), 0)
        total[here] += weight
        up_to[here] += weight * (values[there] <= result[here])
        below[here] += weight * (values[there] < result[here])
        chosen[here] |= (values[there] == result[here]) & (weight > 0)
        rounding[here] += weight * (8 * exponent + 8)
    eps = torch.finfo(compute).eps
    rounding = eps * (rounding / total + min((2 * radius + 1) ** 2, height * width) / 8 + 16)
    right = chosen & (up_to >= total / 2 * (1 - rounding)) & (below <= total / 2 * (1 + rounding))
    copied = actual == src
    filtered = torch.ones_like(chosen) if mask is None else mask.expand(src.shape)
    wrong = ~torch.where(filtered & (total > 0), right, copied)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()}, the first at {tuple(wrong.nonzero()[0].tolist())}"
