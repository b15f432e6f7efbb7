"""Dense convolutions and transposed ones in plain PyTorch: the vendor's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

_CONV: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def dense_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """A convolution of all channels; ``padding`` lies before the image, the rest follows from ``size``."""
    conv = _CONV[x.ndim - 2]
    needed = [
        (out - 1) * s + d * (k - 1) + 1 - image - p
        for image, out, k, s, p, d in zip(x.shape[2:], size, weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    if all(behind <= p < behind + s for behind, p, s in zip(needed, padding, stride, strict=True)):
        return conv(x, weight, bias, stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation))
    pads = [p for pair in zip(padding[::-1], needed[::-1], strict=True) for p in pair]
    return conv(F.pad(x, pads), weight, bias, stride=tuple(stride), dilation=tuple(dilation))


def dense_conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """The transposed convolution of all channels that gives images of ``size``."""
    output_padding = [
        out - ((image - 1) * s - 2 * p + d * (k - 1) + 1)
        for image, out, k, s, p, d in zip(x.shape[2:], size, weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    return _CONV_TRANSPOSE[x.ndim - 2](
        x,
        weight,
        bias,
        stride=tuple(stride),
        padding=tuple(padding),
        output_padding=tuple(output_padding),
        dilation=tuple(dilation),
    )
