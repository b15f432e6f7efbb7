"""From the winners of both views to a dense disparity: check, fill, median, sub-pixel, smoothing.

Each is a function of (..., H, W) arrays that can be called by itself; :class:`~fastseg.stereo.StereoMatcher` calls them
in this order. Definitions: Hosni et al. 2013, "Fast cost-volume filtering for visual correspondence and beyond".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fastseg import ops
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, as_tensor


def left_right_check(left: ArrayT, right: Array, *, tolerance: float = 1.0) -> ArrayT:
    """Where the two views agree: the right image's disparity at x - d is d, but for ``tolerance``.

    Args:
        left, right: disparities (..., H, W) of the two views; d >= 0 moves to the left in the right image.
        tolerance: in pixels.

    Returns:
        bool, (..., H, W). False where x - d, rounded, lies outside the image.

    Raises:
        ValueError: shapes that differ.
    """
    mine, other = as_tensor("left_right_check", "left", left), as_tensor("left_right_check", "right", right)
    if mine.shape != other.shape or mine.ndim < 2:
        raise ValueError(
            f"left_right_check: right has shape {tuple(other.shape)}, expected left's {tuple(mine.shape)}, (..., H, W)"
        )
    mine, other = _floating(mine), _floating(other)
    width = mine.shape[-1]
    target = torch.arange(width, device=mine.device) - mine.round().long()
    there = other.gather(-1, target.clamp(0, width - 1))
    return as_kind_of(left, (target >= 0) & (target < width) & ((mine - there).abs() <= tolerance))


def fill_invalid(disparity: ArrayT, valid: Array) -> ArrayT:
    """The smaller of the nearest valid disparities to the left and to the right on the row: the background's.

    Rows without a valid pixel keep what they have.

    Args:
        disparity: (..., H, W).
        valid: bool, of the same shape.

    Raises:
        ValueError: shapes that differ. TypeError: ``valid`` is not bool.
    """
    values, known = _masked("fill_invalid", disparity, valid)
    width = values.shape[-1]
    columns = torch.arange(width, device=values.device, dtype=torch.int32).expand(values.shape)
    before = torch.where(known, columns, -1).cummax(-1).values
    after = torch.where(known, columns, width).flip(-1).cummin(-1).values.flip(-1)
    # Where there is none on one side, the other side's counts twice.
    first = torch.where(before >= 0, before, after)
    last = torch.where(after < width, after, before)
    none = first >= width
    both = [values.gather(-1, place.clamp(0, width - 1).long()) for place in (first, last)]
    return as_kind_of(disparity, torch.where(known | none, values, torch.minimum(*both)))


def subpixel_offset(before: ArrayT, cost: Array, after: Array) -> ArrayT:
    """Where the parabola through three costs is least: ``-(after - before) / (2 (after + before - 2 cost))``.

    In [-0.5, 0.5]; 0 where the middle one is not the least, where a neighbour is missing (infinite) and where the three
    are equal.
    """
    op = "subpixel_offset"
    named = (("before", before), ("cost", cost), ("after", after))
    low, middle, high = (_floating(as_tensor(op, name, t)) for name, t in named)
    bend = 2 * (low + high - 2 * middle)
    fits = torch.isfinite(bend) & (bend > 0) & (middle <= low) & (middle <= high)
    offset = torch.where(fits, (low - high) / torch.where(fits, bend, 1.0), 0.0)
    return as_kind_of(before, offset.clamp(-0.5, 0.5))


def median_filter(image: ArrayT) -> ArrayT:
    """The median of 3x3 pixels; edge pixels count twice beyond the image's border.

    Args:
        image: (..., H, W), floating point.

    Raises:
        TypeError: another dtype.
    """
    t = _checked_floating("median_filter", "image", as_tensor("median_filter", "image", image))
    padded = functional.pad(t.reshape(-1, 1, *t.shape[-2:]), (1, 1, 1, 1), mode="replicate")[:, 0]
    height, width = t.shape[-2:]
    rows = [padded[:, i : i + height] for i in range(3)]
    low, middle, high = _sorted_three(*rows)
    # The median of nine is the median of: largest of the lows, median of the middles, smallest of the highs.
    parts = [[row[..., i : i + width] for i in range(3)] for row in (low, middle, high)]
    lows = torch.maximum(torch.maximum(*parts[0][:2]), parts[0][2])
    middles = _sorted_three(*parts[1])[1]
    highs = torch.minimum(torch.minimum(*parts[2][:2]), parts[2][2])
    return as_kind_of(image, _sorted_three(lows, middles, highs)[1].view(t.shape))


def wls_refine(
    disparity: ArrayT, confidence: Array, guide: Array, *, lambda_: float = 1e-3, alpha: float = 1.2
) -> ArrayT:
    """``smooth(confidence * d) / smooth(confidence)``, smooth being :func:`fastseg.ops.wls_filter`.

    Args:
        disparity: (..., H, W), floating point.
        confidence: >= 0, of the same shape. Where it is 0 on a whole region, the disparity stays.
        guide: grey image, >= 0, that broadcasts to it.
        lambda_, alpha: of the filter.
    """
    op = "wls_refine"
    values = _checked_floating(op, "disparity", as_tensor(op, "disparity", disparity))
    weight = _checked_floating(op, "confidence", as_tensor(op, "confidence", confidence))
    grey = as_tensor(op, "guide", guide)
    if values.shape != weight.shape:
        raise ValueError(f"{op}: confidence has shape {tuple(weight.shape)}, expected {tuple(values.shape)}")
    # Both share the guide, and so its hierarchy.
    smooth = ops.wls_filter(torch.stack([values * weight, weight]), grey, lambda_=lambda_, alpha=alpha)
    return as_kind_of(disparity, torch.where(smooth[1] > 1e-6, smooth[0] / smooth[1].clamp(min=1e-6), values))


def peak_confidence(cost: ArrayT, second: Array, *, floor: float = 1e-3) -> ArrayT:
    """How far the least cost lies below the least one that is no neighbour of it: ``(second - cost) / second``, 0 to 1.

    Args:
        cost, second: what :func:`fastseg.ops.winner_takes_all` finds.
        floor: > 0, what is divided by at least. Where even the second cost is below it, as in areas of one colour, all
            candidates are about equally good and their order is that of roundings; costs of wrong matches are several
            times as large.
    """
    best, other = (_floating(as_tensor("peak_confidence", name, t)) for name, t in (("cost", cost), ("second", second)))
    share = (other - best) / other.clamp(min=floor)
    return as_kind_of(
        cost, torch.where(torch.isinf(other) & torch.isfinite(best), 1.0, share.nan_to_num(0.0)).clamp(0, 1)
    )


def _floating(t: Tensor) -> Tensor:
    """Integers as float32: bytes would wrap around."""
    return t if t.is_floating_point() else t.float()


def _checked_floating(op: str, name: str, t: Tensor) -> Tensor:
    if not t.is_floating_point():
        raise TypeError(f"{op}: {name} is {t.dtype}, expected floating point")
    return t


def _sorted_three(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)


def _masked(op: str, values: Array, mask: Array) -> tuple[Tensor, Tensor]:
    t, m = as_tensor(op, "disparity", values), as_tensor(op, "valid", mask)
    if m.dtype != torch.bool:
        raise TypeError(f"{op}: valid is {m.dtype}, expected bool")
    if m.shape != t.shape or t.ndim < 2:
        raise ValueError(f"{op}: valid has shape {tuple(m.shape)}, expected disparity's {tuple(t.shape)}, (..., H, W)")
    return t, m
