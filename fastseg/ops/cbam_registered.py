"""The registered ops of channel and spatial attention, and their gradient. The functions are in ops/cbam.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.cbam_call import Saved, new_gradients, new_saved
from fastseg.backends.views import layout_of, new_output
from fastseg.ops.registry import register

_PARAMETERS = 8  # of Weights in backends/cbam_call.py, in its order


def attend(
    op: str,
    x: Tensor,
    parameters: tuple[Tensor | None, ...],
    *,
    spatial: str,
    max_pool: bool = True,
    max_first: bool = False,
    normalize: bool = False,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """y, and with ``normalize`` the statistics of the spatial logits, as reference/cbam.py defines both."""
    if select.runs_reference(op, x):
        return reference.attention(x, parameters, spatial, max_pool, max_first, normalize, eps)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
        y, statistics = _Attention.apply(x, *parameters, spatial, max_pool, max_first, normalize, eps)
        return y, statistics
    results = _forward_op(x, *parameters, spatial, max_pool, max_first, normalize, eps)
    return results[0], Saved(*results[1:]).statistics


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        parameters, flags = args[:_PARAMETERS], args[_PARAMETERS:]
        y, *saved = _forward_op(x, *parameters, *flags)
        ctx.save_for_backward(x, *parameters, *saved)
        ctx.flags = flags
        statistics = Saved(*saved).statistics
        ctx.mark_non_differentiable(statistics)
        return y, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        parameters = rest[:_PARAMETERS]
        dx, *gradients = _backward_op(grad, x, *rest, *ctx.flags)
        wanted = ctx.needs_input_grad
        return (
            dx if wanted[0] else None,
            *(
                gradient.to(parameter.dtype) if needed and parameter is not None else None
                for gradient, parameter, needed in zip(gradients, parameters, wanted[1:], strict=False)
            ),
            *[None] * len(ctx.flags),
        )


def _forward(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    if x.numel() == 0:
        y, *saved = _forward_fake(x, *args)
        return (y, *(t.zero_() for t in saved))
    parameters, flags = args[:_PARAMETERS], args[_PARAMETERS:]
    y, saved = select.kernel("cbam", x).cbam_forward(x, parameters, *flags)
    return (y, *saved)


def _forward_fake(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    spatial, _, _, normalize, _ = args[_PARAMETERS:]
    return (_output_like(x), *new_saved(x, args[0] is not None, spatial, normalize))


def _backward(grad: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    if x.numel() == 0:
        dx, *gradients = _backward_fake(grad, x, *args)
        return (dx, *(t.zero_() for t in gradients))
    saved = len(Saved._fields)
    parameters, kept, flags = args[:_PARAMETERS], args[_PARAMETERS:-5], args[-5:]
    assert len(kept) == saved
    dx, gradients = select.kernel("cbam", x).cbam_backward(grad, x, parameters, Saved(*kept), *flags)
    return (dx, *gradients)


def _backward_fake(grad: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return (_output_like(x), *new_gradients(x, *args[:_PARAMETERS]))


def _output_like(x: Tensor) -> Tensor:
    return new_output(x, x.shape[1], x.shape[2:], layout_of(x) or "rows")


_WEIGHTS = (
    "Tensor? fc1_weight, Tensor? fc1_bias, Tensor? fc2_weight, Tensor? fc2_bias, Tensor? spatial_weight, "
    "Tensor? spatial_bias, Tensor? norm_weight, Tensor? norm_bias"
)
_SAVED = ", ".join(f"Tensor {name}" for name in Saved._fields)
_FLAGS = "str spatial, bool max_pool, bool max_first, bool normalize, float eps"
_GRADIENTS = ", ".join(f"Tensor d{word.split()[1]}" for word in _WEIGHTS.split(", "))

_forward_op = register(f"cbam(Tensor x, {_WEIGHTS}, {_FLAGS}) -> (Tensor y, {_SAVED})", _forward, _forward_fake)
# Gradients of parameters are in the dtype that kernels compute in; empty where there is no such parameter.
_backward_op = register(
    f"cbam_backward(Tensor grad, Tensor x, {_WEIGHTS}, {_SAVED}, {_FLAGS}) -> (Tensor dx, {_GRADIENTS})",
    _backward,
    _backward_fake,
)
