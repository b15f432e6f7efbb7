"""Launches the Triton kernels of the guided filter: a and b of every pixel, then their means and the result.

Bytes to move for a value of src, in float32, beside G guide channels (1 or 3):

                        memory, at least    beside it, from caches where what is in flight fits them
    a and b             4 + 4 (G + 1)       p of rows that leave, 4; the guide, its means and factors: 60 for a colour
                                            guide and all slices of a program, two or four
    means and result    4 (G + 1) + 4       a and b of rows that leave, 4 (G + 1); the guide, 4 G
    sum                 8 + 8 (G + 1)       that is 40 for a colour guide, 24 for a grey one

A strip of h rows begins with a whole window, 2 radius rows that another strip reads too: 8 radius / h bytes more in the
first pass, 8 (G + 1) radius / h in the second. A volume of 64 slices of 375x450, radius 9 and a colour guide: h is 47,
1.5 and 6 bytes more, from memory or a cache. Tiles lose 2 radius columns of theirs, which costs no memory.

Windows too wide for a tile take planes through memory between columns and rows, 4 (G + 1) written and read in both
passes more, 16 of the prefix sums (a row for each program) in a cache. A guide's own statistics move about
4 (G^2 + 4 G) + 16 G (G + 1) bytes for a pixel, once for all slices.

No atomics, and strips begin where shapes say: results are deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from fastseg.backends.triton.guided_filter_kernels import row_windows, window_means
from fastseg.backends.triton.guided_filter_pixel_kernels import factor_covariance, interpolate
from fastseg.backends.triton.tensors import compute_dtype, launch

BLOCKS = (128, 256, 512)  # columns of a tile
WARPS = {"coefficients": 8, "means": 4, "result": 4}  # of a program
#: Values of a tile that a thread has, in float32: with four, sums and loads in flight take the registers of half the
#: warps. A tile's slices share what a program loads of the guide, of its means and its factors.
VALUES_A_THREAD = 2
#: Warps that strips are made for: 32 on each of 128 multiprocessors.
ALL_WARPS = 4096
#: Columns that tiles may have for each column of an image, before windows are too wide for tiles.
WASTE = 4
#: Rows of a strip: running sums in float32 end with it.
LEAST_ROWS, MOST_ROWS = 8, 64
#: Bytes of a and b that are kept at a time; larger volumes are filtered in parts.
SCRATCH_BYTES = 1 << 30
#: Programs that share the rows of windows too wide for a tile.
ROW_PROGRAMS = 1024
#: Columns that they take at a time.
ROW_BLOCK = 256


def guided_filter(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> Tensor:
    src = src.contiguous()
    if radius == 0:  # a is zero
        return src.clone()
    dst = torch.empty_like(src)
    with torch.cuda.device_of(src):
        colours = _centred(guide, guide, compute_dtype(src.dtype))
        statistics = _statistics(colours, radius, eps, border)
        for images, channels in _parts(src, colours):
            part, beside = src[images, channels], colours[images]
            planes = _coefficients(beside, statistics[images], part, radius, border)
            _window_means("result", planes, beside, None, dst[images, channels], radius, border)
    return dst


def guided_filter_argmin(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> tuple[Tensor, Tensor]:
    cost, index = guided_filter(guide, src.to(compute_dtype(src.dtype)), radius, eps, border).min(1)
    return index, cost


def guided_filter_coefficients(guide: Tensor, src: Tensor, radius: int, eps: float, border: str) -> Tensor:
    """Those of the centred guide."""
    src = src.contiguous()
    colours = _centred(guide, guide, compute_dtype(src.dtype))
    means = _planes(src, colours)
    if radius == 0:
        means[:, :, :-1] = 0
        means[:, :, -1] = src
        return means
    with torch.cuda.device_of(src):
        planes = _coefficients(colours, _statistics(colours, radius, eps, border), src, radius, border)
        _window_means("means", planes, colours, None, means, radius, border)
    return means


def guided_filter_interpolate(guide: Tensor, coefficients: Tensor, subsample: int, src: Tensor) -> Tensor:
    dst = src.new_empty(src.shape)
    batch, channels, height, width = src.shape
    rows, block = min(4, triton.next_power_of_2(height)), min(256, triton.next_power_of_2(width))
    with torch.cuda.device_of(src):
        # The centre is that of the samples, as the coefficients have it.
        colours = _centred(guide, guide[..., ::subsample, ::subsample], coefficients.dtype)
        launch(
            interpolate, batch * channels * triton.cdiv(height, rows) * triton.cdiv(width, block), 4,
            coefficients.contiguous(), colours, dst, channels, height, width, *coefficients.shape[-2:], subsample,
            GUIDES=guide.shape[1], ROWS=rows, BLOCK=block,
        )  # fmt: skip
    return dst


def _centred(guide: Tensor, samples: Tensor, dtype: torch.dtype) -> Tensor:
    """The guide as computed with, less the mean of some samples of it, which changes nothing but the rounding."""
    centre = samples.mean((-2, -1), keepdim=True, dtype=torch.float64)
    return (guide.to(dtype) - centre.to(dtype)).contiguous()


def _planes(src: Tensor, colours: Tensor) -> Tensor:
    """Of a and b, for each value of src."""
    batch, channels, height, width = src.shape
    return colours.new_empty((batch, channels, colours.shape[1] + 1, height, width))


def _parts(src: Tensor, colours: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and channels that are filtered at a time: contiguous parts of src."""
    planes = colours.shape[1] + 1
    channels = max(1, SCRATCH_BYTES // (planes * src[0, 0].numel() * colours.dtype.itemsize))
    if channels >= src.shape[0] * src.shape[1]:
        yield slice(None), slice(None)
        return
    for image in range(src.shape[0]):
        for first in range(0, src.shape[1], channels):
            yield slice(image, image + 1), slice(first, first + channels)


def _statistics(colours: Tensor, radius: int, eps: float, border: str) -> Tensor:
    """The guide's means, and the factors of its covariance and eps, in float64 until they are stored."""
    batch, guides, height, width = colours.shape
    moments = torch.empty((batch, guides, guides + 1, height, width), dtype=torch.float64, device=colours.device)
    _window_means("means", colours, colours, None, moments, radius, border)
    statistics = colours.new_empty((batch, guides + guides * (guides + 1) // 2, height, width))
    launch(
        factor_covariance, batch * triton.cdiv(height * width, 256), 4,
        moments, statistics, height * width, eps, GUIDES=guides, BLOCK=256,
    )  # fmt: skip
    return statistics


def _coefficients(colours: Tensor, statistics: Tensor, src: Tensor, radius: int, border: str) -> Tensor:
    planes = _planes(src, colours)
    _window_means("coefficients", src, colours, statistics, planes, radius, border)
    return planes


def block_of(width: int, radius: int) -> int | None:
    """Columns of a tile, of which twice the radius are lost; None where windows are too wide for one."""
    columns = {block: triton.cdiv(width, block - 2 * radius) * block for block in BLOCKS if block > 2 * radius}
    if not columns or min(columns.values()) > WASTE * max(width, BLOCKS[0]):
        return None
    return min(block for block in columns if 8 * columns[block] <= 9 * min(columns.values()))


def tile_of(stage: str, block: int, channels: int, dtype: torch.dtype) -> tuple[int, int]:
    """Slices of a tile, and warps of its program."""
    warps = max(WARPS[stage], block // 64)
    slices = VALUES_A_THREAD * 4 // dtype.itemsize * 32 * warps // block
    slices = min(max(slices, 1), triton.next_power_of_2(channels))
    return slices, max(min(warps, slices * block // 32), 1)


def rows_of(height: int, radius: int, beside: int, warps: int) -> int:
    """Rows of a strip: many, as its first row needs a whole window, but so that all strips have enough warps.

    ``beside`` is how many programs there are for each strip.
    """
    rows = triton.cdiv(height, triton.cdiv(ALL_WARPS, beside * warps))
    return min(max(rows, LEAST_ROWS, radius // 4), max(MOST_ROWS, 8 * radius))


def _window_means(
    stage: str, values: Tensor, colours: Tensor, statistics: Tensor | None, dst: Tensor, radius: int, border: str
) -> None:
    """Means over windows of I p and p for rank 4 ``values``, of planes for rank 5, and what ``stage`` makes of them."""
    batch, channels, height, width = values.shape[0], values.shape[1], *values.shape[-2:]
    guides = colours.shape[1]
    radius_y, radius_x = (min(radius, n - 1) if border == "truncate" else radius for n in (height, width))
    products = values.ndim == 4
    kind = values.dtype if stage == "result" else dst.dtype

    def windows(stage: str, dst: Tensor, radius_x: int, block: int, horizontal: bool) -> None:
        slices, warps = tile_of(stage, block, channels, kind)
        beside = batch * triton.cdiv(channels, slices) * triton.cdiv(width, block - 2 * radius_x)
        rows = rows_of(height, radius_y, beside, warps)
        launch(
            window_means, beside * triton.cdiv(height, rows), warps,
            values, colours, statistics, dst, channels, height, width, radius_y, radius_x, rows,
            STAGE=stage, PRODUCTS=products, HORIZONTAL=horizontal, BORDER=border,
            GUIDES=guides, SLICES=slices, BLOCK=block,
        )  # fmt: skip

    block = block_of(width, radius_x)
    if block is not None:
        windows(stage, dst, radius_x, block, True)
        return
    columns = torch.empty(
        (batch, channels, guides + 1, height, width), dtype=kind, device=values.device
    )  # averaged over rows alone
    windows("means", columns, 0, min(BLOCKS[0], triton.next_power_of_2(width)), False)
    lines = batch * channels * height
    programs = min(lines, ROW_PROGRAMS, max(SCRATCH_BYTES // (8 * (guides + 1) * width), 1))
    prefix = torch.empty((programs, guides + 1, width), dtype=torch.float64, device=values.device)
    launch(
        row_windows, programs, 4,
        columns, colours, statistics, dst, prefix, channels, height, width, lines, radius_x,
        STAGE=stage, BORDER=border, GUIDES=guides, BLOCK=min(ROW_BLOCK, triton.next_power_of_2(width)),
    )  # fmt: skip
