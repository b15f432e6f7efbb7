"""Dense convolutions of layers that may also call torch's: ours where it is the faster one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.backends import select
from fastseg.ops.beside_torch import as_torch_lays_out, offered
from fastseg.ops.dense_conv import dense_conv, dense_conv_transpose
from fastseg.ops.geometry import Axes, Padding, axes
from fastseg.ops.pointwise import pointwise_conv
from fastseg.ops.up_conv import pays as up_conv_pays
from fastseg.ops.up_conv import up_conv_as_torchs

#: Inputs and outputs from which our kernel is the faster one: of three taps, which Winograd's filtering takes, and of
#: others. Measured on four cores with AVX-512: docs/accelerate.md.
TILED_CHANNELS, ENOUGH_CHANNELS = 16, 24
#: Pixels of all samples below which packing the weights takes us as long as the products, or longer; likewise.
TILED_PIXELS, ENOUGH_PIXELS = 512, 2048
#: Dilations along an axis below which tiles, which are of every dilation-th pixel, are too few and half outside.
TILED_DILATIONS = 6
#: The same of the finer image of convolutions with strides, and of transposed ones: from there on torch takes 0.8 to
#: 1.9 times as long channels-last and 0.9 to 2.6 times contiguous, below 0.7 to 1.3.
ENOUGH_STRIDED_PIXELS = 1 << 16
#: Outputs of this size torch has from the system each time, and waits for its pages: then 0.8 to 9 times as long.
FRESH_BYTES = 32 << 20


def conv_if_it_pays(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Axes,
    padding: Padding,
    dilation: Axes,
) -> Tensor | None:
    """Our convolution of x, (N, C, *spatial), as torch's lays its output out; None where torch's is to run."""
    stride, dilation = axes(stride, x.ndim - 2), axes(dilation, x.ndim - 2)
    if _is_pointwise(weight, stride, padding):
        return pointwise_conv(x, weight, bias) if offered("pointwise_conv", x, weight) else None
    if not pays(x, weight, stride, padding, dilation):
        return None
    x = as_torch_lays_out(x, weight)
    return dense_conv(x, weight, bias, stride=stride, padding=padding, dilation=dilation)


def conv_transpose_if_it_pays(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Axes,
    padding: Padding,
    output_padding: Axes,
    dilation: Axes,
) -> Tensor | None:
    """The same of a transposed convolution, whose padding is numbers."""
    assert not isinstance(padding, str)
    rank = x.ndim - 2
    stride, padding, dilation = axes(stride, rank), axes(padding, rank), axes(dilation, rank)
    output_padding = axes(output_padding, rank)
    if tuple(stride) == weight.shape[2:] and not any(padding) and not any(output_padding) and set(dilation) == {1}:
        return up_conv_as_torchs(x, weight, bias) if up_conv_pays(x, weight) else None
    if not transposed_pays(x, weight, stride):
        return None
    x = as_torch_lays_out(x, weight)
    return dense_conv_transpose(
        x, weight, bias, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation
    )


def pays(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Padding, dilation: Sequence[int]) -> bool:
    """Whether a layer that may also call torch's convolution is to call ours: there is a kernel, and it is faster.

    Of few channels or pixels oneDNN is faster.
    """
    if not offered("dense_conv", x, weight):
        return False
    if select.forced() is not None or runs_im2col(x, weight):
        return True
    if set(stride) != {1}:
        return _pays_with_stride(weight, stride, len(x) * x.shape[2:].numel())
    pixels = len(x) * _output_pixels(x, weight, padding, dilation)
    if len(weight) * pixels * x.itemsize >= FRESH_BYTES:
        return True
    if _has_tiles(x, weight, dilation):
        return min(weight.shape[:2]) >= TILED_CHANNELS and pixels >= TILED_PIXELS
    return _enough_channels(weight) and pixels >= ENOUGH_PIXELS


def transposed_pays(x: Tensor, weight: Tensor, stride: Sequence[int]) -> bool:
    """The same of a transposed convolution that is no up-convolution."""
    if not offered("dense_conv_transpose", x, weight):
        return False
    if select.forced() is not None or runs_im2col(x, weight):
        return True
    return _pays_with_stride(weight, stride, len(x) * x.shape[2:].numel() * torch.Size(stride).numel())


def runs_im2col(x: Tensor, weight: Tensor) -> bool:
    """Whether torch takes a batch of one small float32 volume to im2col, for 2 to 10 times as long as oneDNN.

    As ATen's use_mkldnn in Convolution.cpp has it: the product of the first four sizes is not above 20480, and the
    kernel not larger than 3 along both of its last axes.
    """
    small = x.ndim == 5 and len(x) == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= 20480
    small = small and min(weight.shape[-2:]) <= 3
    return small and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _is_pointwise(weight: Tensor, stride: Sequence[int], padding: Padding) -> bool:
    unpadded = isinstance(padding, str) or not any(padding if isinstance(padding, Sequence) else (padding,))
    return unpadded and weight.shape[2:].numel() == 1 and set(stride) == {1}


def _pays_with_stride(weight: Tensor, stride: Sequence[int], fine_pixels: int) -> bool:
    """Patches that do not overlap are not among what was measured to be faster."""
    overlaps = all(k > s or s == 1 for k, s in zip(weight.shape[2:], stride, strict=True))
    return overlaps and _enough_channels(weight) and fine_pixels >= ENOUGH_STRIDED_PIXELS


def _output_pixels(x: Tensor, weight: Tensor, padding: Padding, dilation: Sequence[int]) -> int:
    """Of a sample, without stride; none where torch is to say that the kernel is too large."""
    if padding == "same":
        return x.shape[2:].numel()
    pads = [0] * len(dilation) if isinstance(padding, str) else padding
    pads = [pads] * len(dilation) if isinstance(pads, int) else pads
    pixels = 1
    for n, k, p, d in zip(x.shape[2:], weight.shape[2:], pads, dilation, strict=True):
        pixels *= max(n + 2 * p - d * (k - 1), 0)
    return pixels


def _has_tiles(x: Tensor, weight: Tensor, dilation: Sequence[int]) -> bool:
    """Whether it is a convolution of three taps, as WinogradTiles::takes of csrc/cpu has it."""
    taps = weight.shape[2:]
    if weight.dtype != torch.float32 or taps[-2:] != (3, 3) or taps[0] not in (1, 3):
        return False
    along = zip(x.shape[2:], taps, dilation, strict=True)
    return all(d == 1 or k == 1 or n >= TILED_DILATIONS * d for n, k, d in along)


def _enough_channels(weight: Tensor) -> bool:
    return min(weight.shape[:2]) >= ENOUGH_CHANNELS
