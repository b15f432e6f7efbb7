"""Launches the CPU kernels of matching costs and the census. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.images import dense_rows, images
from fastseg.backends.memory import new_output
from fastseg.backends.views import ELEMENT


def census_transform(image: Tensor, rows: int, columns: int) -> Tensor:
    image = dense_rows(image)
    batch, channels, height, width = image.shape
    words = new_output(
        image.new_empty((batch, 0), dtype=torch.int64), census_words(rows, columns), (height, width), "rows"
    )
    _C.census_transform(
        batch, channels, height, width, images(image), rows, columns, words.data_ptr(), torch.get_num_threads()
    )
    return words


def census_words(rows: int, columns: int) -> int:
    return -(-(rows * columns - 1) // 64)


def matching_cost(
    left: Tensor,
    right: Tensor,
    min_disparity: int,
    max_disparity: int,
    view: str,
    cost: str,
    ad_weight: float,
    gradient_weight: float,
    census_weight: float,
    ad_threshold: float,
    gradient_threshold: float,
    census_rows: int,
    census_columns: int,
    outside: float,
    ad_scale: float,
    census_scale: float,
    dtype: torch.dtype,
) -> Tensor:
    left, right = dense_rows(left), dense_rows(right)
    batch, channels, height, width = left.shape
    disparities = max_disparity - min_disparity
    volume = new_output(left.new_empty((batch, 0), dtype=dtype), disparities, (height, width), "rows")
    _C.matching_cost(
        batch,
        channels,
        height,
        width,
        images(left),
        images(right),
        min_disparity,
        disparities,
        view == "right",
        cost == "ad_census",
        ad_weight,
        gradient_weight,
        census_weight,
        ad_threshold,
        gradient_threshold,
        census_rows,
        census_columns,
        outside,
        ad_scale,
        census_scale,
        volume.data_ptr(),
        ELEMENT[dtype],
        torch.get_num_threads(),
    )
    return volume
