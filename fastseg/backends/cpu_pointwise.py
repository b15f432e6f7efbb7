"""1x1 convolutions on the CPU: which of two kernels. No autograd and no checks here: see fastseg/ops/pointwise.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastseg.backends import cpu, cpu_context
from fastseg.reference.depthwise import nearest_to


def pointwise_conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
    """As :func:`fastseg.backends.cpu.pointwise_conv_forward`."""
    if not _is_wide(weight):
        return cpu.pointwise_conv_forward(x, weight, bias, residual)
    y = cpu_context.aspp_conv_forward(x, [weight], [bias], [_one(x)])
    return y if residual is None else y.add_(nearest_to(residual, y.shape[2:]))


def pointwise_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`fastseg.backends.cpu.pointwise_conv_backward`."""
    if not _is_wide(weight):
        return cpu.pointwise_conv_backward(grad, x, weight, wanted)
    parameters = wanted[1] or wanted[2]
    dx, dweights, dbiases = cpu_context.aspp_conv_backward(
        grad, x, [weight], [_one(x)], [wanted[0], parameters, parameters]
    )
    compute = torch.promote_types(x.dtype, torch.float32)
    return (
        x.new_empty((0,)) if dx is None else dx,
        dweights[0] if parameters else x.new_empty((0,), dtype=compute),
        dbiases[0] if parameters else x.new_empty((0,), dtype=compute),
    )


def _is_wide(weight: Tensor) -> bool:
    """Whether the kernel of dilated convolutions is faster, which takes inputs in blocks.

    Forward and backward in float32 on four cores, channels-last: 2048 to 512 channels of 2x8x8 pixels took 2.8 ms
    against 10.3, 1024 to 256 of 2x32x32 6.2 against 13.5, but 512 to 128 of 2x32x32 2.0 against 1.7.
    """
    return weight.shape[0] * weight.shape[1] >= 1 << 18


def _one(x: Tensor) -> list[int]:
    return [1] * (x.ndim - 2)
