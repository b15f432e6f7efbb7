"""Depthwise convolutions in Triton: forward, with statistics, transposed, and the gradients.

Bytes to move, u is one pass over the tensor: 2u forward and for the gradient of the input, 2u for that of the weights;
as many multiply-adds an element as the kernel has taps. Triton has no halo in shared memory: what neighbours share
comes from the first-level cache, so what counts is how many loads a multiply-add takes. A lane is therefore a column of
pixels, and a line of the source that it loads serves all of these:

    loads for 72 or 36 multiply-adds of 3x3           a pixel      lane
    rows, 8 pixels a lane                                  72        30
    channels-last, 4 pixels a lane, 16-byte loads          36        18

Sums of the weights take a plane of the kernel at a time where registers hold that (up to 7x7 in rows, 3x3 in
channels-last), else a column of taps; grad and x are read once for each of these.

Statistics of y leave center, shift and M2 of every part in slots of their own, as do sums of the weights; both are
merged in a fixed order: results are deterministic. None of it has been timed on a card.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastseg.backends.triton import depthwise_kernels as kernels
from fastseg.backends.triton.tensors import Strided, alignment, compute_dtype, dense, launch, strided
from fastseg.backends.views import (
    Layout,
    as_layout,
    depthwise_layouts,
    depthwise_shape,
    memory_format,
    new_output,
    statistics_like,
)

WARPS = 4
THREADS = 32 * WARPS
ROWS: dict[Layout, int] = {"rows": 8, "channels_last": 4}  # of a lane
MOST_LOADS: dict[Layout, int] = {"rows": 33, "channels_last": 20}  # of a step: weights and lines of the source
REGISTERS = 168  # of a thread, which leaves three programs on a multiprocessor; left to itself, ptxas spills a little
MOST_PARTS = 1024  # slots of statistics for each channel: one program merges them
PROGRAMS = 4096  # where each leaves sums behind: a few for every multiprocessor of the largest cards


class Volume(NamedTuple):
    """Sizes along depth, height and width."""

    z: int
    y: int
    x: int


class Axis(NamedTuple):
    kernel: int
    stride: int
    padding: int
    dilation: int


class Geometry(NamedTuple):
    """A depthwise_shape by axis, from x of size ``image`` to y of size ``size``."""

    multiplier: int
    image: Volume
    size: Volume
    depth: Axis
    height: Axis
    width: Axis

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Geometry:
        image, size, kernel, stride, padding, dilation = (shape[3 + 3 * field : 6 + 3 * field] for field in range(6))
        axes = (Axis(*axis) for axis in zip(kernel, stride, padding, dilation, strict=True))
        return cls(shape[2], Volume(*image), Volume(*size), *axes)

    def constants(self) -> dict[str, Any]:
        """What both kernels are compiled for."""
        pixels = max(self.image.z * self.image.y * self.image.x, self.size.z * self.size.y * self.size.x)
        return {
            "DEPTH": tuple(self.depth),
            "HEIGHT": tuple(self.height),
            "WIDTH": tuple(self.width),
            "MULTIPLIER": self.multiplier,
            "FLAT": self.image.z == 1 and self.depth == Axis(1, 1, 0, 1),
            # Half of what 32 bits hold leaves room for halos and for tiles that reach beyond the image.
            "INDEX": tl.int32 if pixels < 2**30 else tl.int64,
        }


class Tile(NamedTuple):
    channels: int
    lanes: int
    rows: int


def lanes_of(size: Volume, rows: int) -> int:
    return size.z * triton.cdiv(size.y, rows) * size.x


def tile_of(channels: int, size: Volume, layout: Layout, elements: int, rows: int) -> Tile:
    """``elements`` with the axis that is dense in memory filled first."""
    lanes = triton.next_power_of_2(lanes_of(size, rows))
    if layout == "rows":
        wide = min(elements, lanes)
        return Tile(min(elements // wide, triton.next_power_of_2(channels)), wide, rows)
    wide = min(64, triton.next_power_of_2(channels))
    return Tile(wide, min(max(elements // wide, 1), lanes), rows)


def vector_of(channels: int, layout: Layout, dtype: torch.dtype) -> int:
    """Elements of a thread. In rows a tap moves runs by a pixel, so that wide accesses would not be aligned."""
    return math.gcd(channels, 16 // dtype.itemsize) if layout == "channels_last" else 1


@functools.cache
def loads_of(height: Axis, rows: int, transposed: bool) -> tuple[int, float]:
    """How many lines of the source a lane loads, and for each product of a row and a tap: 1 where none is shared."""
    lines = kernels.lines_of(rows, height, transposed)
    products = sum(kernels.tap_of(line, row, height, transposed) >= 0 for line in lines for row in range(rows))
    return len(lines), len(lines) / products


def convolution_tile(
    geometry: Geometry, channels: int, layout: Layout, dtype: torch.dtype, transposed: bool
) -> tuple[Tile, bool]:
    """The tile, and whether the taps along the height are unrolled."""
    size = geometry.image if transposed else geometry.size
    vector = vector_of(channels, layout, dtype)
    step = geometry.height.stride if transposed else 1
    rows = min(ROWS[layout], triton.next_power_of_2(size.y))
    if step <= ROWS[layout]:
        # Transposed, the same taps serve every stride-th row: a lane begins where the first of these does.
        whole = step * max(rows // step, 1)
        lines, loads_per_product = loads_of(geometry.height, whole, transposed)
        loads = lines + geometry.height.kernel
        if loads <= MOST_LOADS[layout] and loads_per_product <= 0.75:
            if loads > 13:
                vector = min(vector, 4)  # eight 16-bit numbers are eight registers too
            return tile_of(channels, size, layout, THREADS * vector, whole), True
    return tile_of(channels, size, layout, THREADS * vector, rows if step == 1 else 1), False


def correlation_tile(
    geometry: Geometry, channels: int, layout: Layout, dtype: torch.dtype
) -> tuple[Tile, tuple[int, int]]:
    """The tile, and the taps (along height and width) that a program sums up at a time."""
    height, width = geometry.height.kernel, geometry.width.kernel
    elements = min(vector_of(channels, layout, dtype), 4)
    for taps in ((height, width), (height, 1), (1, 1)):
        registers = elements * taps[0] * taps[1] * compute_dtype(dtype).itemsize // 4
        if registers <= (40 if layout == "channels_last" else 50):
            break
    # A row below y would multiply by zero what may be infinite.
    rows = math.gcd(ROWS[layout] if registers <= 40 else 4, geometry.size.y)
    if loads_of(geometry.height, rows, False)[1] >= 0.75:
        rows = 1
    return tile_of(channels, geometry.size, layout, THREADS * elements, rows), taps


# ---- launches --------------------------------------------------------------------------------------------------------


def _convolve(
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    geometry: Geometry,
    layout: Layout,
    transposed: bool,
    eps: float | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Writes target; with ``eps`` gives mean and 1 / sqrt(variance + eps) of its channels."""
    batch, channels = target.shape[:2]
    size = geometry.image if transposed else geometry.size
    tile, unrolled = convolution_tile(geometry, channels, layout, source.dtype, transposed)
    total = triton.cdiv(lanes_of(size, tile.rows), tile.lanes)
    programs = batch * triton.cdiv(channels, tile.channels)
    tiles, parts, partials = 1, total, None
    if eps is not None:
        tiles = triton.cdiv(total, min(MOST_PARTS, triton.cdiv(PROGRAMS, programs)))
        parts = triton.cdiv(total, tiles)
        partials = source.new_empty((4, batch * channels, parts), dtype=compute_dtype(source.dtype))
    views = strided(source, layout), strided(target, layout)
    # Numbers of steps are no constants: else the compiler unrolls, and needs more registers than there are.
    columns = geometry.width.kernel
    planes = geometry.depth.kernel * (1 if unrolled else geometry.height.kernel)
    planes *= geometry.multiplier if transposed else 1
    with torch.cuda.device_of(source):
        launch(
            kernels.convolve, programs * parts, WARPS,
            views[0], _filters(weight, layout), dense(bias), views[1], partials,
            batch * channels, channels,
            geometry.size if transposed else geometry.image, size, parts, tiles, planes, columns,
            TRANSPOSED=transposed, UNROLLED=unrolled, ACC=_ACC[compute_dtype(source.dtype)],
            **_tile_constants(tile, channels, layout, views), **geometry.constants(), maxnreg=REGISTERS,
        )  # fmt: skip
        if partials is None:
            return None
        mean, rstd = statistics_like(target), statistics_like(target)
        launch(
            kernels.merge_statistics, batch * channels, WARPS,
            partials, mean, rstd, batch * channels, size.z * size.y * size.x, parts,
            EPS=eps, BLOCK_P=triton.next_power_of_2(parts),
        )  # fmt: skip
    return mean, rstd


def depthwise_conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
    eps: float | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y, and with ``eps`` also the mean and 1 / sqrt(variance + eps) of each of its channels."""
    wanted_layout, layout = depthwise_layouts(x, weight.shape[0] != x.shape[1])
    x = as_layout(x, layout)
    y = new_output(x, weight.shape[0], size, layout)
    geometry = Geometry.of(depthwise_shape(x.shape, weight.shape, stride, padding, dilation, size))
    statistics = _convolve(x, weight, bias, y, geometry, layout, False, eps) or (None, None)
    return y.contiguous(memory_format=memory_format(wanted_layout, len(size))), *statistics


def depthwise_conv_transpose_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
    channels: int,
) -> Tensor:
    """The gradient of a depthwise convolution with respect to its input of ``channels`` channels, plus bias."""
    wanted_layout, layout = depthwise_layouts(x, channels != x.shape[1])
    x = as_layout(x, layout)
    y = new_output(x, channels, size, layout)
    geometry = Geometry.of(depthwise_shape(y.shape, weight.shape, stride, padding, dilation, x.shape[2:]))
    _convolve(x, weight, bias, y, geometry, layout, True)
    return y.contiguous(memory_format=memory_format(wanted_layout, len(size)))


def depthwise_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The wanted ones of dx, dweight and dbias; those of parameters in the dtype that kernels compute in."""
    wanted_layout, layout = depthwise_layouts(x, weight.shape[0] != x.shape[1])
    x, grad = as_layout(x, layout), as_layout(grad, layout)
    geometry = Geometry.of(depthwise_shape(x.shape, weight.shape, stride, padding, dilation, grad.shape[2:]))
    dx = dweight = dbias = None
    if wanted[0]:
        dx = new_output(x, x.shape[1], x.shape[2:], layout)
        _convolve(grad, weight, None, dx, geometry, layout, True)
        dx = dx.contiguous(memory_format=memory_format(wanted_layout, len(stride)))
    if wanted[1]:
        dweight = _correlate(grad, x, geometry, layout).view(weight.shape)
    if wanted[2]:
        dbias = grad.sum((0, *range(2, grad.ndim)), dtype=compute_dtype(x.dtype))
    return dx, dweight, dbias


def _correlate(grad: Tensor, x: Tensor, geometry: Geometry, layout: Layout) -> Tensor:
    """The gradient of the weights, [channels of y, taps]."""
    batch, channels = grad.shape[:2]
    size = geometry.size
    tile, window = correlation_tile(geometry, channels, layout, x.dtype)
    taps = geometry.depth.kernel * geometry.height.kernel * geometry.width.kernel
    programs = batch * triton.cdiv(channels, tile.channels) * (taps // (window[0] * window[1]))
    total = triton.cdiv(lanes_of(size, tile.rows), tile.lanes)
    tiles = triton.cdiv(total, triton.cdiv(PROGRAMS, programs))
    parts = triton.cdiv(total, tiles)
    partials = x.new_empty((batch * parts, channels, taps), dtype=compute_dtype(x.dtype))
    views = strided(grad, layout), strided(x, layout)
    with torch.cuda.device_of(x):
        launch(
            kernels.correlate, programs * parts, WARPS,
            *views, partials, channels, geometry.image, size, parts, tiles,
            TAPS_Y=window[0], TAPS_X=window[1],
            **_tile_constants(tile, channels, layout, views), **geometry.constants(), maxnreg=REGISTERS,
        )  # fmt: skip
    return partials.sum(0)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _filters(weight: Tensor, layout: Layout) -> Tensor:
    """[channels, taps], or channels-last [taps, channels]: there neighbours in a vector are channels."""
    flat = weight.flatten(1)
    return flat.contiguous() if layout == "rows" else flat.t().contiguous()


def _tile_constants(tile: Tile, channels: int, layout: Layout, views: tuple[Strided | None, ...]) -> dict[str, Any]:
    return {
        "CHANNELS_LAST": layout == "channels_last",
        # In rows a tap moves a run by a pixel, so none has a known start.
        "ALIGN": 1 if layout == "rows" else alignment(channels, *views),
        "BLOCK_C": tile.channels,
        "BLOCK_P": tile.lanes,
        "ROWS": tile.rows,
    }
