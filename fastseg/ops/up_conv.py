"""Up-convolutions: transposed convolutions whose stride is their kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.views import convolved_layout, memory_format, new_output, weight_layout
from fastseg.ops import checks
from fastseg.ops.beside_torch import as_torch_lays_out, offered
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.registry import register

_NAME = "up_conv"
#: Of contiguous images with weights of so many inputs by outputs torch's took 0.8 to 0.95 of our time: bringing the
#: weights into another order takes long.
_MANY_PRODUCTS = 1 << 16


def up_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""The up-convolution of U-Nets (Ronneberger et al. 2015, arXiv:1505.04597): each pixel of x becomes a patch.

    .. math:: y_{n, o, p * size + k} = bias_o + \sum_c weight_{c,o,k} x_{n, c, p}

    A transposed convolution whose stride is its kernel:
    ``torch.nn.functional.conv_transpose2d(x, weight, bias, stride=weight.shape[2:])``, or ``conv_transpose3d``.

    Args:
        x: (N, C, H, W) or (N, C, D, H, W); float32, float64, bfloat16 or float16. Contiguous and channels-last are read
            as they lie.
        weight: (C, O, kH, kW) or (C, O, kD, kH, kW) of x's dtype.
        bias: (O,) of x's dtype, or None.

    Returns:
        (N, O, H * kH, W * kW) or (N, O, D * kD, H * kH, W * kW), of x's dtype and memory format.

    Raises:
        ValueError: wrong rank, shape or device.
        TypeError: an integer or complex tensor, or dtypes that differ. Under autocast all are cast, as torch's are.

    On the CPU a kernel of ours runs, on GPUs the vendor's. For backward it keeps x and the weight. Not twice
    differentiable: use ``fastseg.backend("reference")`` for that.
    """
    x, weight, bias = checks.convolution_inputs(_NAME, x, weight, bias, inputs_axis=0)
    if select.runs_reference(_NAME, x):
        return reference.up_conv(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        y: Tensor = _UpConv.apply(x, weight, bias)
        return y
    return _forward_op(x, weight, bias)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer that may also call torch's transposed convolution is to call ours."""
    if not offered(_NAME, x, weight):
        return False
    channels_last = convolved_layout(x) == "channels_last" or weight_layout(weight) == "channels_last"
    return channels_last or weight.shape[0] * weight.shape[1] < _MANY_PRODUCTS or select.forced() is not None


def up_conv_as_torchs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """:func:`up_conv`, which returns channels-last where x or the weight is, as torch's convolutions."""
    return up_conv(as_torch_lays_out(x, weight), weight, bias)


class _UpConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _forward_op(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        dx, dweight, dbias = _backward_op(grad, x, weight, wanted)
        return (
            dx if wanted[0] else None,
            dweight.to(weight.dtype) if wanted[1] else None,
            dbias.to(weight.dtype) if wanted[2] else None,
        )


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.numel() == 0 or weight.numel() == 0:
        y = _forward_fake(x, weight, bias).zero_()
        return y if bias is None else y.add_(bias.view(1, -1, *[1] * (x.ndim - 2)))
    return select.kernel(_NAME, x).up_conv_forward(x, weight, bias)


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    size = [n * k for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)]
    return new_output(x, weight.shape[1], size, convolved_layout(x))


def _backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0 or weight.numel() == 0:
        dx, dweight, dbias = _backward_fake(grad, x, weight, wanted)
        if dbias.numel():
            dbias = grad.sum((0, *range(2, grad.ndim)), dtype=dbias.dtype)
        return dx.zero_(), dweight.zero_(), dbias
    gradients: tuple[Tensor, Tensor, Tensor] = select.kernel(_NAME, x).up_conv_backward(grad, x, weight, wanted)
    return gradients


def _backward_fake(grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    compute = torch.promote_types(x.dtype, torch.float32)
    dx = new_output(x, x.shape[1], x.shape[2:], convolved_layout(x)) if wanted[0] else x.new_empty((0,))
    if not (wanted[1] or wanted[2]):
        return dx, x.new_empty((0,), dtype=compute), x.new_empty((0,), dtype=compute)
    layout = memory_format(weight_layout(weight), weight.ndim - 2)
    dweight = torch.empty(weight.shape, dtype=compute, device=x.device, memory_format=layout)
    return dx, dweight, x.new_empty(weight.shape[1:2], dtype=compute)


_forward_op = register("up_conv(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _forward, _forward_fake)
# What is not wanted is empty; gradients of weight and bias come together, in the dtype that kernels compute in.
_backward_op = register(
    "up_conv_backward(Tensor grad, Tensor x, Tensor weight, bool[] wanted) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    _backward,
    _backward_fake,
)
