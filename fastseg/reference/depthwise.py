"""The depthwise family in plain PyTorch: the definition, exact in float64, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.reference.norm import instance_norm_act

_CONV: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """Convolution with one group a channel; ``padding`` lies before the image, the rest follows from ``size``."""
    compute = torch.promote_types(x.dtype, torch.float32)
    behind = [
        (out - 1) * s + d * (k - 1) + 1 - image - p
        for image, out, k, s, p, d in zip(x.shape[2:], size, weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    pads = [p for axis in reversed(range(len(size))) for p in (padding[axis], behind[axis])]
    y = _CONV[len(size)](
        F.pad(x.to(compute), pads),
        weight.to(compute),
        None if bias is None else bias.to(compute),
        stride=tuple(stride),
        dilation=tuple(dilation),
        groups=x.shape[1],
    )
    return y.to(x.dtype)


def depthwise_conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """The transposed convolution with one group a channel that gives images of ``size``."""
    compute = torch.promote_types(x.dtype, torch.float32)
    output_padding = [
        out - ((image - 1) * s - 2 * p + d * (k - 1) + 1)
        for image, out, k, s, p, d in zip(x.shape[2:], size, weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    y = _CONV_TRANSPOSE[len(size)](
        x.to(compute),
        weight.to(compute),
        None if bias is None else bias.to(compute),
        stride=tuple(stride),
        padding=tuple(padding),
        output_padding=tuple(output_padding),
        dilation=tuple(dilation),
        groups=x.shape[1],
    )
    return y.to(x.dtype)


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
    """The vendor's 1x1 convolution, plus the residual."""
    y: Tensor = _CONV[x.ndim - 2](x, weight, bias)
    # In place: a convolution does not keep its output for backward.
    return y if residual is None else y.add_(nearest_to(residual, y.shape[2:]))


def nearest_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` itself where its spatial sizes are ``size``, otherwise up-sampled."""
    return x if x.shape[2:] == torch.Size(size) else F.interpolate(x, tuple(size), mode="nearest")


def depthwise_instance_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
    activation: str,
    negative_slope: float,
    eps: float,
) -> Tensor:
    """act(instance_norm(depthwise_conv(x)))."""
    return instance_norm_act(
        depthwise_conv(x, weight, bias, stride, padding, dilation, size),
        norm_weight,
        norm_bias,
        activation=activation,
        negative_slope=negative_slope,
        eps=eps,
    )
