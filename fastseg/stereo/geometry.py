"""Disparity to depth, to points, and back.

A point at depth Z in front of a rectified pair is seen by the left camera at x = f X / Z + cx, y = f Y / Z + cy, and by
the right one, a baseline B further to the right, at x - d with

    d + doffs = f B / Z        doffs = cx of the right camera - cx of the left one

The camera is at the origin and looks along +Z; X runs to the right and Y down, as x and y in the image. Pixel centres
are at whole numbers: the centre of an image is at ((W - 1) / 2, (H - 1) / 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastseg.ops.arrays import ArrayT, as_kind_of, as_tensor


def triangulate(
    disparity: ArrayT,
    *,
    focal_length: float,
    baseline: float,
    doffs: float = 0.0,
    cx: float | None = None,
    cy: float | None = None,
) -> ArrayT:
    """The points that the pixels of the left image see: X = (x - cx) Z / f, Y = (y - cy) Z / f, Z = f B / (d + doffs).

    Args:
        disparity: (..., H, W), NumPy, CuPy or torch; differentiable.
        focal_length: f, in pixels.
        baseline: B, in any unit; the points are in the same.
        doffs: cx of the right camera minus cx of the left one, in pixels.
        cx: column of the left camera's principal point; the middle of the image where it is not given.
        cy: row of it.

    Returns:
        (..., H, W, 3), the kind of ``disparity``, float64 for float64 and otherwise float32. NaN where d is not finite,
        d + doffs is not above 0, or the point is too far away for the dtype.
    """
    d, f_b = _checked("triangulate", "disparity", disparity, focal_length, baseline, doffs)
    height, width = d.shape[-2:]
    right, most_right = _slopes("cx", cx, width, focal_length, d)
    down, most_down = _slopes("cy", cy, height, focal_length, d)
    z = _divided(f_b, d + doffs, max(1.0, most_right, most_down))
    return as_kind_of(disparity, torch.stack((right * z, down[:, None] * z, z), -1))


def depth_from_disparity(disparity: ArrayT, *, focal_length: float, baseline: float, doffs: float = 0.0) -> ArrayT:
    """Z = f B / (d + doffs) for (..., H, W), in the unit of the baseline; NaN where :func:`triangulate` gives NaN."""
    d, f_b = _checked("depth_from_disparity", "disparity", disparity, focal_length, baseline, doffs)
    return as_kind_of(disparity, _divided(f_b, d + doffs))


def disparity_from_depth(depth: ArrayT, *, focal_length: float, baseline: float, doffs: float = 0.0) -> ArrayT:
    """d = f B / Z - doffs for (..., H, W); NaN where the depth is not finite or not above 0."""
    z, f_b = _checked("disparity_from_depth", "depth", depth, focal_length, baseline, doffs)
    return as_kind_of(depth, _divided(f_b, z) - doffs)


def _checked(
    op: str, name: str, array: object, focal_length: float, baseline: float, doffs: float
) -> tuple[Tensor, float]:
    """The map in the dtype of the result, and f B."""
    for argument, value in (("focal_length", focal_length), ("baseline", baseline)):
        if not 0 < value < math.inf:
            raise ValueError(f"{op}: {argument} is {value}, expected a finite number > 0")
    if not math.isfinite(doffs):
        raise ValueError(f"{op}: doffs is {doffs}, expected a finite number")
    values = as_tensor(op, name, array)
    if values.ndim < 2:
        raise ValueError(f"{op}: {name} has shape {tuple(values.shape)}, expected (..., H, W)")
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{op}: {name} is {values.dtype}, expected real numbers")
    return values.to(torch.float64 if values.dtype == torch.float64 else torch.float32), focal_length * baseline


def _slopes(name: str, centre: float | None, size: int, focal_length: float, like: Tensor) -> tuple[Tensor, float]:
    """(x - cx) / f for every column, or the same for rows, and the largest of them without its sign."""
    centre = (size - 1) / 2 if centre is None else centre
    if not math.isfinite(centre):
        raise ValueError(f"triangulate: {name} is {centre}, expected a finite number")
    places = torch.arange(size, dtype=torch.float64, device=like.device)  # one line only, so float64 costs nothing
    largest = max(abs(centre), abs(size - 1 - centre)) / focal_length
    return ((places - centre) / focal_length).to(like.dtype), largest


def _divided(numerator: float, by: Tensor, multiplied_by: float = 1.0) -> Tensor:
    """numerator / by; NaN where ``by`` is not finite, not above 0, or so small that a multiple of the result overflows.

    The derivative must not overflow either, for inf times a gradient of 0 is NaN. What is left out is replaced before
    the division, for the same reason.
    """
    least = numerator * multiplied_by / torch.finfo(by.dtype).max
    known = torch.isfinite(by) & (by > max(least, math.sqrt(least)))
    # A number divided by a tensor would be its reciprocal times the number: rounded twice.
    quotient = torch.div(torch.tensor(numerator, dtype=by.dtype), torch.where(known, by, 1.0))
    return torch.where(known, quotient, torch.nan)
