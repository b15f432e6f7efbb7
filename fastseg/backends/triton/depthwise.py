"""Depthwise convolutions in Triton: forward, transposed, and the gradients.

Bytes to move, u is one pass over the tensor: 2u forward and for the gradient of the input, 2u for that of the weights;
as many multiply-adds an element as the kernel has taps. A program takes a tile of [channels, pixels] of targets and
walks the taps; neighbouring pixels read the same sources again, from the first-level cache. Triton has no halo in
shared memory, so this is the simple version that any machine with Triton can run; it has not been timed on a card.

Partial sums of the weights lie in slots of their own and are added in a fixed order: results are deterministic.
Offsets are 64-bit.
"""

# Device functions are written in Triton's language, which has no types for mypy to check.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastseg.backends.triton.norm import compute_dtype
from fastseg.backends.views import (
    Layout,
    as_layout,
    depthwise_layouts,
    depthwise_shape,
    memory_format,
    new_output,
    strides3,
)

TILE_ELEMENTS = 1024
MOST_PARTS = 256  # slots of partial sums for each channel


class Strided(NamedTuple):
    """A (batch, channels, pixels) tensor as kernels take it."""

    data: Tensor
    batch: int
    channel: int
    pixel: int


class Axis(NamedTuple):
    """One axis of a convolution from x (``image``) to y (``size``)."""

    image: int
    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int


# ---- device functions ------------------------------------------------------------------------------------------------


@triton.jit
def _forward_source(target, tap, axis):
    """The pixel of x that a pixel of y takes with a tap, and whether there is one."""
    source = target * axis.stride - axis.padding + tap * axis.dilation
    return source, (source >= 0) & (source < axis.image)


@triton.jit
def _backward_source(target, tap, axis):
    """The pixel of y that takes a pixel of x with a tap, and whether there is one."""
    scaled = target + axis.padding - tap * axis.dilation
    source = scaled // axis.stride
    return source, (scaled >= 0) & (source * axis.stride == scaled) & (source < axis.size)


@triton.jit
def _pointers(t, n, channel, pixel):
    return t.data + n * t.batch + channel[:, None] * t.channel + pixel[None, :] * t.pixel


@triton.jit
def _tile(program, channels, pixels, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Batch index, channels and pixels of a program's tile; tiles of one image's channels follow each other."""
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    pixel_blocks = tl.cdiv(pixels, BLOCK_P)
    channel = (program % channel_blocks) * BLOCK_C + tl.arange(0, BLOCK_C).to(tl.int64)
    rest = program // channel_blocks
    pixel = (rest % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P).to(tl.int64)
    return rest // pixel_blocks, channel, pixel


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def convolve(
    source, weight, bias, target, channels, multiplier, z, y, x,
    TRANSPOSED: tl.constexpr, ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Forward: ``channels`` of y, each from one of x. Transposed: ``channels`` of x, each from ``multiplier`` of y."""
    if TRANSPOSED:
        depth, height, width = z.image, y.image, x.image
        source_height, source_width = y.size, x.size
        inputs = multiplier
    else:
        depth, height, width = z.size, y.size, x.size
        source_height, source_width = y.image, x.image
        inputs = 1
    pixels = tl.cast(depth, tl.int64) * height * width
    n, channel, pixel = _tile(tl.program_id(0).to(tl.int64), channels, pixels, BLOCK_C, BLOCK_P)
    mask = (channel < channels)[:, None] & (pixel < pixels)[None, :]
    oz, oy, ox = pixel // width // height, pixel // width % height, pixel % width
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    if bias is not None:
        total += tl.load(bias + channel, channel < channels, 0.0).to(ACC)[:, None]
    for i in range(inputs):
        if TRANSPOSED:
            source_channel, filter_ = channel * multiplier + i, channel * multiplier + i
        else:
            source_channel, filter_ = channel // multiplier, channel
        for tap in range(z.kernel * y.kernel * x.kernel):
            kz, ky, kx = tap // x.kernel // y.kernel, tap // x.kernel % y.kernel, tap % x.kernel
            if TRANSPOSED:
                sz, in_z = _backward_source(oz, kz, z)
                sy, in_y = _backward_source(oy, ky, y)
                sx, in_x = _backward_source(ox, kx, x)
            else:
                sz, in_z = _forward_source(oz, kz, z)
                sy, in_y = _forward_source(oy, ky, y)
                sx, in_x = _forward_source(ox, kx, x)
            inside = mask & (in_z & in_y & in_x)[None, :]
            at = (sz * source_height + sy) * source_width + sx
            values = tl.load(_pointers(source, n, source_channel, at), inside, 0.0).to(ACC)
            taps = z.kernel * y.kernel * x.kernel
            w = tl.load(weight + filter_ * taps + tap, channel < channels, 0.0).to(ACC)
            total += values * w[:, None]
    tl.store(_pointers(target, n, channel, pixel), total, mask)


@triton.jit
def correlate(
    grad, source, partials, channels, multiplier, parts, tiles, z, y, x,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Adds one part of a sample's tiles of pixels to partials [batch * parts, channels, taps]."""
    taps = z.kernel * y.kernel * x.kernel
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0).to(tl.int64)
    channel = (program % channel_blocks) * BLOCK_C + tl.arange(0, BLOCK_C).to(tl.int64)
    slot = program // channel_blocks
    n = slot // parts
    pixels = tl.cast(z.size, tl.int64) * y.size * x.size
    for tap in range(taps):
        kz, ky, kx = tap // x.kernel // y.kernel, tap // x.kernel % y.kernel, tap % x.kernel
        total = tl.zeros([BLOCK_C], ACC)
        for tile in range(tiles):
            pixel = ((slot % parts) * tiles + tile) * BLOCK_P + tl.arange(0, BLOCK_P)
            mask = (channel < channels)[:, None] & (pixel < pixels)[None, :]
            sz, in_z = _forward_source(pixel // x.size // y.size, kz, z)
            sy, in_y = _forward_source(pixel // x.size % y.size, ky, y)
            sx, in_x = _forward_source(pixel % x.size, kx, x)
            inside = mask & (in_z & in_y & in_x)[None, :]
            g = tl.load(_pointers(grad, n, channel, pixel), mask, 0.0).to(ACC)
            at = (sz * y.image + sy) * x.image + sx
            values = tl.load(_pointers(source, n, channel // multiplier, at), inside, 0.0).to(ACC)
            total += tl.sum(g * values, 1)
        tl.store(partials + (slot * channels + channel) * taps + tap, total, channel < channels)


# ---- launches --------------------------------------------------------------------------------------------------------


def launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
    """Every launch of this module goes through here, so that tests can see which kernels run and with what."""
    kernel[(programs,)](*args, num_warps=4, **constants)


def blocks(channels: int, pixels: int, layout: Layout) -> tuple[int, int]:
    """(channels, pixels) of a tile, with the axis that is dense in memory filled first."""
    if layout == "rows":
        wide = min(TILE_ELEMENTS, triton.next_power_of_2(pixels))
        return min(TILE_ELEMENTS // wide, triton.next_power_of_2(channels)), wide
    wide = min(64, triton.next_power_of_2(channels))
    return wide, min(TILE_ELEMENTS // wide, triton.next_power_of_2(pixels))


def _axes(shape: tuple[int, ...]) -> tuple[Axis, Axis, Axis]:
    """z, y and x of a depthwise_shape."""
    z, y, x = (Axis(*(shape[3 + 3 * field + axis] for field in range(6))) for axis in range(3))
    return z, y, x


def _acc(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _convolve(
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    shape: tuple[int, ...],
    layout: Layout,
    transposed: bool,
) -> None:
    channels, pixels = target.shape[1], target.shape[2:].numel()
    block_c, block_p = blocks(channels, pixels, layout)
    programs = target.shape[0] * triton.cdiv(channels, block_c) * triton.cdiv(pixels, block_p)
    with torch.cuda.device_of(source):
        launch(
            convolve,
            programs,
            Strided(source, *strides3(source)),
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            Strided(target, *strides3(target)),
            channels,
            shape[2],
            *_axes(shape),
            TRANSPOSED=transposed,
            ACC=_acc(source),
            BLOCK_C=block_c,
            BLOCK_P=block_p,
        )


def depthwise_conv_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
    eps: None,
) -> tuple[Tensor, None, None]:
    """y. Statistics of it are the CPU kernel's only."""
    wanted_layout, layout = depthwise_layouts(x, weight.shape[0] != x.shape[1])
    x = as_layout(x, layout)
    y = new_output(x, weight.shape[0], size, layout)
    shape = depthwise_shape(x.shape, weight.shape, stride, padding, dilation, size)
    _convolve(x, weight, bias, y, shape, layout, transposed=False)
    return y.contiguous(memory_format=memory_format(wanted_layout, len(size))), None, None


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
    shape = depthwise_shape(y.shape, weight.shape, stride, padding, dilation, x.shape[2:])
    _convolve(x, weight, bias, y, shape, layout, transposed=True)
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
    shape = depthwise_shape(x.shape, weight.shape, stride, padding, dilation, grad.shape[2:])
    compute = compute_dtype(x.dtype)
    dx = dweight = dbias = None
    if wanted[0]:
        dx = new_output(x, x.shape[1], x.shape[2:], layout)
        _convolve(grad, weight, None, dx, shape, layout, transposed=True)
        dx = dx.contiguous(memory_format=memory_format(wanted_layout, len(stride)))
    if wanted[1]:
        channels, pixels = grad.shape[1], grad.shape[2:].numel()
        block_c, block_p = blocks(channels, pixels, layout)
        tiles = triton.cdiv(triton.cdiv(pixels, block_p), MOST_PARTS)
        parts = triton.cdiv(pixels, block_p * tiles)
        partials = x.new_empty((x.shape[0] * parts, *weight.shape), dtype=compute)
        with torch.cuda.device_of(x):
            launch(
                correlate,
                x.shape[0] * parts * triton.cdiv(channels, block_c),
                Strided(grad, *strides3(grad)),
                Strided(x, *strides3(x)),
                partials,
                channels,
                shape[2],
                parts,
                tiles,
                *_axes(shape),
                ACC=_acc(x),
                BLOCK_C=block_c,
                BLOCK_P=block_p,
            )
        dweight = partials.sum(0)
    if wanted[2]:
        dbias = grad.sum((0, *range(2, grad.ndim)), dtype=compute)
    return dx, dweight, dbias
