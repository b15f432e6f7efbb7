"""A rectified pair as the matcher works on it, and checks that it is one."""

from __future__ import annotations

import torch
from torch import Tensor

from fastseg import ops
from fastseg.ops.arrays import Array, as_tensor, check_numbers
from fastseg.stereo.refinement import left_right_check
from fastseg.stereo.unit_range import check_unit_range

_NAME = "StereoMatcher.match"
_WHOLE = {torch.uint8: 255.0, torch.uint16: 65535.0}
# The copy is at most so large, and smaller images are not looked at.
_LOOK_WIDTH, _LOOK_HEIGHT, _LOOK_LEAST = 160, 240, 16
_LOOK_ROWS = 4
# Shares of pixels that both views agree on. Middlebury's pairs have 0.8 as they are and below 0.02 when swapped.
_SOME, _MOST = 0.3, 0.7


class StereoPairError(ValueError):
    """Images that are no rectified pair in the order left, right."""


def load_pair(left: Array, right: Array, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Both images as float32 (B, 1 or 3, H, W) in [0, 1], on ``device`` or where they are.

    Args:
        left, right: NumPy, CuPy or torch; (H, W), (C, H, W), (H, W, C), (B, C, H, W) or (B, H, W, C) with C 1 or 3;
            uint8, uint16, or floating point in [0, 1]. Grey images of a batch need their channel: (B, 1, H, W).

    Raises:
        ValueError: shapes, dtypes or devices that differ, an empty image, floating point far out of [0, 1], NaN.
        TypeError: another dtype, or no array.
    """
    images = {"left": as_tensor(_NAME, "left", left), "right": as_tensor(_NAME, "right", right)}
    if images["left"].shape != images["right"].shape:
        raise ValueError(
            f"{_NAME}: right has shape {tuple(images['right'].shape)}, expected left's {tuple(images['left'].shape)}: "
            "both images of a rectified pair have one size"
        )
    if images["left"].dtype != images["right"].dtype or images["left"].device != images["right"].device:
        raise ValueError(
            f"{_NAME}: right is {images['right'].dtype} on {images['right'].device}, expected left's "
            f"{images['left'].dtype} on {images['left'].device}"
        )
    first, second = (_image(name, image, device) for name, image in images.items())
    return first, second


def _image(name: str, image: Tensor, device: torch.device | None) -> Tensor:
    if not (image.dtype.is_floating_point or image.dtype in _WHOLE):
        raise TypeError(f"{_NAME}: {name} is {image.dtype}, expected uint8, uint16 or floating point in [0, 1]")
    batch = _channels_first(name, image)
    if 0 in batch.shape:
        raise ValueError(f"{_NAME}: {name} has shape {tuple(image.shape)}, expected at least one pixel")
    # Two steps: one would make bytes four times as long before they go to the device.
    values = batch.detach().to(device or image.device).to(torch.float32).contiguous()
    if image.dtype in _WHOLE:
        return values / _WHOLE[image.dtype]
    check_numbers(_NAME, name, values)
    check_unit_range(_NAME, name, values)
    return values


def _channels_first(name: str, image: Tensor) -> Tensor:
    if image.ndim == 2:
        return image[None, None]
    if image.ndim in (3, 4):
        batch = image if image.ndim == 4 else image[None]
        if batch.shape[1] in (1, 3):
            return batch
        if batch.shape[3] in (1, 3):
            return batch.movedim(3, 1)
    raise ValueError(
        f"{_NAME}: {name} has shape {tuple(image.shape)}, expected (H, W), or (C, H, W), (H, W, C), (B, C, H, W) or "
        "(B, H, W, C) with 1 or 3 channels"
    )


def check_rectified(left: Tensor, right: Tensor, max_disparity: int) -> None:
    """Look at a small copy of each pair for what spoils every disparity: swapped views, and rows that do not match.

    Disparities of both signs are tried there, and where few pixels agree rows further up and down. Of the pixels that
    both views agree on, most must have matched a pixel to the left in the same row. Pictures that say nothing either
    way pass.

    Args:
        left, right: (B, 1 or 3, H, W) in [0, 1].
        max_disparity: in pixels of these images.

    Raises:
        StereoPairError: the views of a pair look swapped, or shifted up or down.
    """
    height, width = left.shape[-2:]
    scale = max(1.0, width / _LOOK_WIDTH, height / _LOOK_HEIGHT)
    size = max(1, round(height / scale)), max(1, round(width / scale))
    if min(size) < _LOOK_LEAST:
        return
    reach = min(max(2, int(max_disparity / scale) + 1), size[1] // 2)
    for index in range(left.shape[0]):  # one by one: a good pair says nothing about the next one
        pair = [
            torch.nn.functional.interpolate(image[index : index + 1], size=size, mode="area") for image in (left, right)
        ]
        which = f"pair {index}: " if left.shape[0] > 1 else ""
        _check_one(f"{_NAME}: {which}", pair, reach, scale)


def _check_one(prefix: str, pair: list[Tensor], reach: int, scale: float) -> None:
    backwards, still, forwards = _agreement(pair, reach, 0)
    if backwards > _SOME and backwards > 2 * forwards:
        raise StereoPairError(
            f"{prefix}{backwards:.0%} of the pixels of a small copy match pixels to the right and {forwards:.0%} "
            "pixels to the left: negative disparities dominate, left and right look swapped. Give them in the other "
            "order, or a negative min_disparity if this is meant"
        )
    here = still + forwards
    if here >= _MOST:
        return
    shifts = {}
    for rows in range(-_LOOK_ROWS, _LOOK_ROWS + 1):
        if rows:
            _, none, some = _agreement(pair, reach, rows)
            shifts[rows] = none + some
    rows, share = max(shifts.items(), key=lambda item: item[1])
    if share > _SOME and share > here + 0.1:
        raise StereoPairError(
            f"{prefix}{share:.0%} of the pixels of a small copy match pixels about {abs(rows) * scale:.0f} rows "
            f"{'below' if rows > 0 else 'above'} in the right image, and {here:.0%} in the same row: the pair is "
            "not rectified"
        )


def _agreement(pair: list[Tensor], reach: int, rows: int) -> tuple[float, float, float]:
    """Shares of pixels that both views agree on, of negative, no and positive disparity, right moved by ``rows``."""
    left, moved = pair[0], pair[1].roll(-rows, dims=-2)
    found = []
    for view, guide in (("left", left), ("right", moved)):
        costs = ops.matching_cost(left, moved, max_disparity=reach + 1, min_disparity=-reach, view=view)
        found.append(ops.guided_filter_argmin(guide, costs, radius=4, eps=1e-3).index - reach)
    same = left_right_check(found[0], found[1], tolerance=0)
    signs = (found[0] < 0, found[0] == 0, found[0] > 0)
    negative, none, positive = torch.stack([(same & sign).float().mean() for sign in signs]).tolist()  # one look
    return negative, none, positive
