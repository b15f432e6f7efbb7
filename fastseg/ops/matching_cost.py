"""Matching costs of a stereo pair, and the census transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, as_tensor, check_numbers, reads_numbers
from fastseg.ops.checks import check_choice, check_not_negative
from fastseg.ops.registry import register

_COST = "matching_cost"
_CENSUS = "census_transform"
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8)
_RESULTS = {"float32": torch.float32, "float16": torch.float16}
_LARGEST_WINDOW = 9
COSTS = ("weighted", "ad_census")


def matching_cost(
    left: ArrayT,
    right: Array,
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
    dtype: Any = torch.float32,
) -> ArrayT:
    """How badly each pixel of one image matches each candidate in the other: the cost volume of a rectified pair.

    Slice i belongs to disparity d = min_disparity + i. Left pixel x is compared with right pixel x - d; with
    ``view="right"`` the volume belongs to the right image, whose pixel x is compared with left pixel x + d.

    ``cost="weighted"`` is ``ad_weight * min(AD, ad_threshold) + gradient_weight * min(|dg|, gradient_threshold) +
    census_weight * hamming / bits``: AD is the mean over the channels of the absolute differences, g the gradient of
    grey = 0.299 R + 0.587 G + 0.114 B along x (half the central difference, in the first and the last column the
    one-sided one, 0 where the width is 1), hamming the number of differing bits of :func:`census_transform`, of
    ``bits`` = rows * columns - 1. The defaults are those of CostFilter (Rhemann, Hosni et al. 2011, "Fast cost-volume
    filtering for visual correspondence and beyond"). A term of weight 0 is not computed.

    ``cost="ad_census"`` is ``2 - exp(-hamming / census_scale) - exp(-AD / ad_scale)`` (Mei et al. 2011, "On building an
    accurate stereo matching system on graphics hardware"), without weights and thresholds.

    Where the matching pixel lies outside the other image, its colours and its gradient count as ``outside`` (as in
    CostFilter's published code) and all bits of its census as differing.

    Args:
        left: (H, W), (1, H, W), (3, H, W), (B, 1, H, W) or (B, 3, H, W): NumPy, CuPy or torch; float32, float64,
            float16 or bfloat16 in [0, 1], or uint8, which is divided by 255.
        right: as left: same shape, dtype and device.
        max_disparity: exclusive, above min_disparity and at most W.
        min_disparity: above -W.
        view: "left" or "right": whose pixels have the costs.
        cost: "weighted" or "ad_census".
        ad_weight, gradient_weight, census_weight: >= 0, one of them above 0.
        ad_threshold, gradient_threshold: >= 0, for pixels in [0, 1].
        census_window: (rows, columns), odd, 1 to 9, not both 1.
        outside: a finite number >= 0, for pixels in [0, 1].
        ad_scale, census_scale: > 0, of ``"ad_census"``.
        dtype: of the result: float32 or float16, of torch or NumPy, or its name.

    Returns:
        (D, H, W) or, for batches, (B, D, H, W), with D = max_disparity - min_disparity; an array of left's kind on its
        device. Kernels compute in float32 and round float64 images to it. Where left or right requires grad, plain
        PyTorch computes it (in float64 for float64 images), and is differentiable as often as needed; the census has no
        gradient.

    Raises:
        ValueError: shapes, devices or dtypes that differ, a wrong number of channels, no pixels, NaN or infinity (not
            looked for under torch.compile), or an argument out of its range.
        TypeError: another dtype of an image, or no array.
        BackendError: a kernel is forced for images that require grad.
    """
    image, other = as_tensor(_COST, "left", left), as_tensor(_COST, "right", right)
    _check_image(_COST, "left", image)
    _check_image(_COST, "right", other)
    for what, ours, theirs in (("shape", tuple(image.shape), tuple(other.shape)), ("dtype", image.dtype, other.dtype)):
        if ours != theirs:
            raise ValueError(f"{_COST}: right has {what} {theirs}, expected left's {what} {ours}")
    if other.device != image.device:
        raise ValueError(f"{_COST}: right is on {other.device}, expected left's device {image.device}")
    _check_disparities(min_disparity, max_disparity, image.shape[-1])
    check_choice(_COST, "view", view, ("left", "right"))
    check_choice(_COST, "cost", cost, COSTS)
    weights = {"ad_weight": ad_weight, "gradient_weight": gradient_weight, "census_weight": census_weight}
    check_weights(_COST, cost, **weights)
    thresholds = {"ad_threshold": ad_threshold, "gradient_threshold": gradient_threshold, "outside": outside}
    for name, number in thresholds.items():
        check_not_negative(_COST, name, number)
    for name, number in (("ad_scale", ad_scale), ("census_scale", census_scale)):
        if not 0 < number < float("inf"):
            raise ValueError(f"{_COST}: {name} is {number}, expected a finite number > 0")
    rows, columns = check_window(_COST, "census_window", census_window)
    result_dtype = _result_dtype(dtype)
    if reads_numbers():
        check_numbers(_COST, "left", image)
        check_numbers(_COST, "right", other)
    needs_grad = torch.is_grad_enabled() and (image.requires_grad or other.requires_grad)
    if needs_grad:
        select.only_reference(_COST, "left or right requires grad, and only the reference is differentiable")
    if needs_grad or select.runs_reference(_COST, image):
        volume = reference.matching_cost(
            image,
            other,
            max_disparity=int(max_disparity),
            min_disparity=int(min_disparity),
            view=view,
            cost=cost,
            census_window=(rows, columns),
            ad_scale=ad_scale,
            census_scale=census_scale,
            dtype=result_dtype,
            **weights,
            **thresholds,
        )
        return as_kind_of(left, volume)
    volume = _cost_op(
        _batched(image), _batched(other), int(min_disparity), int(max_disparity), view, cost,
        float(ad_weight), float(gradient_weight), float(census_weight), float(ad_threshold), float(gradient_threshold),
        rows, columns, float(outside), float(ad_scale), float(census_scale), result_dtype,
    )  # fmt: skip
    return as_kind_of(left, volume if image.ndim == 4 else volume.view(volume.shape[1:]))


def census_transform(image: ArrayT, *, window: tuple[int, int] = (7, 9)) -> ArrayT:
    """Which neighbours of a pixel are darker than itself, as bits (Zabih and Woodfill 1994).

    Bit i stands for neighbour i of the window, row by row without its centre: bit i % 64 of word i // 64. It is set
    where the neighbour is darker. Beyond the sides of the image its outermost pixels are repeated. Colours are compared
    as grey, 299 R + 587 G + 114 B of float32 values, computed in float64 and rounded to float32: every kernel finds the
    same bits. float64 images are rounded to float32 first.

    Args:
        image: (H, W), (1, H, W), (3, H, W), (B, 1, H, W) or (B, 3, H, W): NumPy, CuPy or torch; float32, float64,
            float16, bfloat16 or uint8.
        window: (rows, columns), odd, 1 to 9, not both 1.

    Returns:
        int64 (words, H, W) or, for batches, (B, words, H, W), with a word for every 64 of the rows * columns - 1
        neighbours; an array of image's kind on its device. It has no gradient.

    Raises:
        ValueError: a wrong number of channels, no pixels, NaN or infinity (not looked for under torch.compile), or a
            window that is even, too large or the centre alone.
        TypeError: another dtype, or no array.
    """
    pixels = as_tensor(_CENSUS, "image", image).detach()
    _check_image(_CENSUS, "image", pixels)
    rows, columns = check_window(_CENSUS, "window", window)
    if reads_numbers():
        check_numbers(_CENSUS, "image", pixels)
    if select.runs_reference(_CENSUS, pixels):
        return as_kind_of(image, reference.census_transform(pixels, window=(rows, columns)))
    words = _census_op(_batched(pixels), rows, columns)
    return as_kind_of(image, words if pixels.ndim == 4 else words.view(words.shape[1:]))


def _batched(image: Tensor) -> Tensor:
    return image.reshape((1,) * (4 - image.ndim) + tuple(image.shape))


def _check_image(op: str, name: str, image: Tensor) -> None:
    if image.dtype not in _DTYPES:
        raise TypeError(f"{op}: {name} is {image.dtype}, expected float32, float64, float16, bfloat16 or uint8")
    if not 2 <= image.ndim <= 4 or (image.ndim > 2 and image.shape[-3] not in (1, 3)):
        raise ValueError(
            f"{op}: {name} has shape {tuple(image.shape)}, expected (H, W), or (1, H, W), (3, H, W), (B, 1, H, W) or "
            "(B, 3, H, W) with the channels before the image"
        )
    if 0 in image.shape[-2:]:
        raise ValueError(f"{op}: {name} has shape {tuple(image.shape)}, expected at least one pixel")


def _check_disparities(least: int, most: int, width: int) -> None:
    for name, number in (("min_disparity", least), ("max_disparity", most)):
        if not (abs(number) < 2**31 and number == int(number)):  # written so that NaN is refused
            raise ValueError(f"{_COST}: {name} is {number}, expected a whole number")
    if most <= least:
        raise ValueError(f"{_COST}: max_disparity is {most}, expected more than min_disparity {least}: it is exclusive")
    if most > width:
        raise ValueError(f"{_COST}: max_disparity is {most}, expected at most the width {width} of the images")
    if least <= -width:
        raise ValueError(f"{_COST}: min_disparity is {least}, expected more than -{width}, the width of the images")


def check_weights(op: str, cost: str, **weights: float) -> None:
    """The weights of a cost's terms.

    Raises:
        ValueError: a negative one, or none above 0 where the cost is a weighted sum.
    """
    for name, number in weights.items():
        check_not_negative(op, name, number)
    if cost == "weighted" and not any(weights.values()):
        *others, last = weights
        raise ValueError(f"{op}: {', '.join(others)} and {last} are 0, expected one above 0")


def check_window(op: str, name: str, window: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a census window. Raises ValueError for what is none."""
    try:
        rows, columns = window
        odd = all(1 <= side <= _LARGEST_WINDOW and side % 2 == 1 for side in (rows, columns))
    except (TypeError, ValueError):
        odd = False
    if not odd or rows * columns == 1:
        raise ValueError(
            f"{op}: {name} is {window}, expected (rows, columns), both odd, from 1 to {_LARGEST_WINDOW}, not both 1"
        )
    return int(rows), int(columns)


def _result_dtype(dtype: Any) -> torch.dtype:
    if dtype in (torch.float32, torch.float16):
        return dtype
    try:
        found = _RESULTS.get(np.dtype(dtype).name)
    except TypeError:
        found = None
    if found is None:
        raise ValueError(f"{_COST}: dtype is {dtype}, expected float32 or float16")
    return found


def _census(image: Tensor, rows: int, columns: int) -> Tensor:
    if image.numel() == 0:
        return _census_fake(image, rows, columns)
    return select.kernel(_CENSUS, image).census_transform(image, rows, columns)


def _census_fake(image: Tensor, rows: int, columns: int) -> Tensor:
    batch, _, height, width = image.shape
    return image.new_empty((batch, -(-(rows * columns - 1) // 64), height, width), dtype=torch.int64)


def _cost(left: Tensor, right: Tensor, least: int, most: int, *rest: Any) -> Tensor:
    if left.numel() == 0:
        return _cost_fake(left, right, least, most, *rest)
    return select.kernel(_COST, left).matching_cost(left, right, least, most, *rest)


def _cost_fake(left: Tensor, right: Tensor, least: int, most: int, *rest: Any) -> Tensor:
    batch, _, height, width = left.shape
    return left.new_empty((batch, most - least, height, width), dtype=rest[-1])


_census_op = register("census_transform(Tensor image, int rows, int columns) -> Tensor", _census, _census_fake)
_cost_op = register(
    "matching_cost(Tensor left, Tensor right, int min_disparity, int max_disparity, str view, str cost, "
    "float ad_weight, float gradient_weight, float census_weight, float ad_threshold, float gradient_threshold, "
    "int census_rows, int census_columns, float outside, float ad_scale, float census_scale, ScalarType dtype) -> "
    "Tensor",
    _cost,
    _cost_fake,
)
