"""Launches the Triton kernels of matching costs and the census.

Bytes to move: both images read once for their greys, slopes and census (4, 4 and 8 bytes a pixel, 16 with more than 64
neighbours); then the volume, 4 bytes a cost or 2, written once. What a cost is made from is read from the caches: a
program keeps the pixels of one image in registers and goes over CHUNK disparities of the other. No atomics: results are
deterministic.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fastseg.backends.triton.matching_cost_kernels import census_words, cost_volume, grey_planes
from fastseg.backends.triton.tensors import launch

WARPS = 4
BLOCK = 512  # pixels of a program: four a thread, as many as a 16-byte store takes
CENSUS_BLOCK = 256  # pixels of a program: all neighbours are in flight, which takes registers
CHUNK = 16  # disparities of a program, for each time that it reads its own pixels


def census_transform(image: Tensor, rows: int, columns: int) -> Tensor:
    with torch.cuda.device_of(image):
        grey, _ = _planes(image.contiguous())
        return _census(grey, rows, columns)


def _planes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Greys and slopes (batch, height, width)."""
    batch, channels, height, width = image.shape
    grey = torch.empty((batch, height, width), dtype=torch.float32, device=image.device)
    slope = torch.empty_like(grey)
    plane, pixels = height * width, grey.numel()
    launch(
        grey_planes, triton.cdiv(pixels, BLOCK), WARPS,
        image, grey, slope, width, plane, pixels, CHANNELS=channels, BLOCK=BLOCK,
    )  # fmt: skip
    return grey, slope


def _census(grey: Tensor, rows: int, columns: int) -> Tensor:
    batch, height, width = grey.shape
    count = -(-(rows * columns - 1) // 64)
    words = torch.empty((batch, count, height, width), dtype=torch.int64, device=grey.device)
    launch(
        census_words, triton.cdiv(grey.numel(), CENSUS_BLOCK), WARPS,
        grey, words, height, width, height * width, grey.numel(),
        ROWS=rows, COLUMNS=columns, WORDS=count, BLOCK=CENSUS_BLOCK,
    )  # fmt: skip
    return words


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
    images = [image.contiguous() for image in ((left, right) if view == "left" else (right, left))]
    batch, channels, height, width = left.shape
    disparities, bits = max_disparity - min_disparity, census_rows * census_columns - 1
    both = cost == "ad_census"
    colours, gradient = both or ad_weight > 0, not both and gradient_weight > 0
    census = both or census_weight > 0
    # As CostFactors of csrc/cpu/matching_cost_rows.h.
    unit = 255 if left.dtype == torch.uint8 else 1
    total = unit * channels
    steepness = 2 * unit * (1000 if channels == 3 else 1)
    ad_factor = -1 / (ad_scale * total) if both else ad_weight / total
    census_factor = -1 / census_scale if both else census_weight / bits
    volume = torch.empty((batch, disparities, height, width), dtype=dtype, device=left.device)
    with torch.cuda.device_of(left):
        planes = [_planes(image) if gradient or census else (image, image) for image in images]
        words = [
            _census(grey, census_rows, census_columns) if census else image
            for image, (grey, _) in zip(images, planes, strict=True)
        ]
        block = min(BLOCK, triton.next_power_of_2(width))
        programs = batch * triton.cdiv(disparities, CHUNK) * height * triton.cdiv(width, block)
        launch(
            cost_volume, programs, max(1, WARPS * block // BLOCK),
            *images, planes[0][1], planes[1][1], *words, volume,
            height, width, height * width, min_disparity, disparities, 1 if view == "left" else -1,
            ad_factor, ad_threshold * total, gradient_weight / steepness, gradient_threshold * steepness,
            census_factor, outside * unit, outside * steepness,
            CHANNELS=channels, COLOURS=colours, GRADIENT=gradient, WORDS=words[0].shape[1] if census else 0, BITS=bits,
            AD_CENSUS=both, BLOCK=block, CHUNK=CHUNK,
        )  # fmt: skip
    return volume
