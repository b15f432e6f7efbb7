"""The registered ops of channel and spatial attention, and their gradient. The functions are in ops/cbam.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.backends.cbam_call import Saved, needed, new_gradients, new_saved, with_empty, without_empty
from fastseg.backends.views import layout_of, new_output
from fastseg.ops.once_differentiable import once_differentiable
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
) -> tuple[Tensor, Tensor | None]:
    """y, and with ``normalize`` the statistics of the spatial logits, as reference/cbam.py defines both."""
    if select.runs_reference(op, x):
        return reference.attention(x, parameters, spatial, max_pool, max_first, normalize, eps)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
        y, statistics = _Attention.apply(x, *parameters, spatial, max_pool, max_first, normalize, eps)
        return y, statistics
    flags = (spatial, max_pool, max_first, normalize, eps)
    y, saved = _forward_op(x, *parameters, *flags)
    return y, _saved_of(saved, x, parameters, flags).statistics if normalize else None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *args: Any) -> tuple[Tensor, Tensor | None]:
        parameters, flags = args[:_PARAMETERS], args[_PARAMETERS:]
        y, saved = _forward_op(x, *parameters, *flags)
        ctx.save_for_backward(x, *parameters, *saved)
        ctx.flags = flags
        *_, normalize, _ = flags
        if not normalize:
            return y, None
        statistics = _saved_of(saved, x, parameters, flags).statistics
        ctx.mark_non_differentiable(statistics)
        return y, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        parameters, saved = rest[:_PARAMETERS], rest[_PARAMETERS:]
        dx, gradients = _backward_op(grad, x, *parameters, saved, *ctx.flags)
        left, wanted = iter(gradients), ctx.needs_input_grad
        of_parameters: list[Tensor | None] = []
        for parameter, wants in zip(parameters, wanted[1:], strict=False):
            gradient = None if parameter is None else next(left)
            of_parameters.append(gradient.to(parameter.dtype) if wants and gradient is not None else None)
        return (dx if wanted[0] else None, *of_parameters, *[None] * len(ctx.flags))


def _needed(parameters: Sequence[Tensor | None], flags: Sequence[Any]) -> tuple[bool, ...]:
    spatial, max_pool, _, normalize, _ = flags
    return needed(parameters[0] is not None, spatial, max_pool, normalize)


def _saved_of(saved: Sequence[Tensor], x: Tensor, parameters: Sequence[Tensor | None], flags: Sequence[Any]) -> Saved:
    return Saved(*with_empty(saved, _needed(parameters, flags), x))


def _forward(x: Tensor, *args: Any) -> tuple[Tensor, list[Tensor]]:
    if x.numel() == 0:
        y, saved = _forward_fake(x, *args)
        return y, [t.zero_() for t in saved]
    parameters, flags = args[:_PARAMETERS], args[_PARAMETERS:]
    y, all_saved = select.kernel("cbam", x).cbam_forward(x, parameters, *flags)
    return y, without_empty(all_saved, _needed(parameters, flags))


def _forward_fake(x: Tensor, *args: Any) -> tuple[Tensor, list[Tensor]]:
    parameters, flags = args[:_PARAMETERS], args[_PARAMETERS:]
    which = _needed(parameters, flags)
    _, max_pool, *_ = flags
    return _output_like(x), without_empty(new_saved(x, which, max_pool), which)


def _backward(grad: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, list[Tensor]]:
    if x.numel() == 0:
        dx, gradients = _backward_fake(grad, x, *args)
        return dx, [t.zero_() for t in gradients]
    parameters, saved, *flags = args[:_PARAMETERS], *args[_PARAMETERS:]
    launch = select.kernel("cbam", x).cbam_backward
    dx, all_gradients = launch(grad, x, parameters, _saved_of(saved, x, parameters, flags), *flags)
    return dx, without_empty(all_gradients, _given(parameters))


def _backward_fake(grad: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, list[Tensor]]:
    parameters = args[:_PARAMETERS]
    return _output_like(x), without_empty(new_gradients(x, *parameters), _given(parameters))


def _given(parameters: Sequence[Tensor | None]) -> tuple[bool, ...]:
    return tuple(t is not None for t in parameters)


def _output_like(x: Tensor) -> Tensor:
    return new_output(x, x.shape[1], x.shape[2:], layout_of(x) or "rows")


_WEIGHTS = (
    "Tensor? fc1_weight, Tensor? fc1_bias, Tensor? fc2_weight, Tensor? fc2_bias, Tensor? spatial_weight, "
    "Tensor? spatial_bias, Tensor? norm_weight, Tensor? norm_bias"
)
_FLAGS = "str spatial, bool max_pool, bool max_first, bool normalize, float eps"

_forward_op = register(f"cbam(Tensor x, {_WEIGHTS}, {_FLAGS}) -> (Tensor y, Tensor[] saved)", _forward, _forward_fake)
# Gradients are those of the parameters that are given, in the dtype that kernels compute in.
_backward_op = register(
    f"cbam_backward(Tensor grad, Tensor x, {_WEIGHTS}, Tensor[] saved, {_FLAGS}) -> (Tensor dx, Tensor[] gradients)",
    _backward,
    _backward_fake,
)
