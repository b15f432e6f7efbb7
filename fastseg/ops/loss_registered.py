"""The registered ops of the losses, and their gradient. The functions are in ops/loss.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastseg.backends import select
from fastseg.backends.loss_call import SLOPES, Formula
from fastseg.backends.views import output_like
from fastseg.ops.loss_arguments import (
    ClassWeights,
    Output,
    check_tensors,
    check_values,
    class_weights_for,
    prepared,
    refuse_values,
)
from fastseg.ops.once_differentiable import once_differentiable
from fastseg.ops.registry import register


def segmentation_loss(
    op: str,
    definition: Callable[..., Tensor],
    logits: Tensor,
    target: Tensor,
    formula: Formula,
    output: Output,
    class_weights: ClassWeights,
    ignore_index: int,
) -> Tensor:
    """What a function of ops/loss.py gives, whose options are checked; ``definition`` is that of the reference."""
    check_tensors(op, logits, target, output)
    sigmoid = output == "sigmoid"
    if not formula.include_background and logits.shape[1] == 1:
        raise ValueError(f"{op}: include_background is False, expected True for logits of one class")
    weights = class_weights_for(op, class_weights, logits)
    logits, target = prepared(logits, target)
    if select.runs_reference(op, logits):
        if logits.device.type == "cpu" and not (torch.compiler.is_compiling() or select.transformed()):
            check_values(op, logits, target, sigmoid, ignore_index)
        return definition(
            logits,
            target,
            ce_weight=formula.ce_weight,
            output=output,
            include_background=formula.include_background,
            batch=formula.batch,
            class_weights="balanced" if formula.balanced else weights,
            ignore_index=ignore_index,
        )
    if torch.is_grad_enabled() and logits.requires_grad:
        loss: Tensor = _SegmentationLoss.apply(logits, target, weights, op, sigmoid, ignore_index, formula)
        return loss
    return _forward_op(logits, target, weights, op, sigmoid, ignore_index, *formula)[0]


def runs_fused(op: str, logits: Tensor) -> bool:
    """Whether a loss that has a form of its own is to call ``op``: there is a kernel for logits. The definition takes
    longer than other libraries' losses. A forced backend is always asked."""
    return select.forced() is not None or not select.runs_reference(op, logits)


class _SegmentationLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        weights: Tensor | None,
        op: str,
        sigmoid: bool,
        ignore_index: int,
        formula: Formula,
    ) -> Tensor:
        loss, slopes = _forward_op(logits, target, weights, op, sigmoid, ignore_index, *formula)
        ctx.save_for_backward(logits, target, slopes)
        ctx.call = (op, sigmoid, ignore_index)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward_op(grad, *ctx.saved_tensors, *ctx.call), *[None] * 6


def _forward(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    op: str,
    sigmoid: bool,
    ignore_index: int,
    *formula: Any,
) -> tuple[Tensor, Tensor]:
    launch = select.kernel(op, logits).segmentation_loss_forward
    loss, slopes, (count, value) = launch(logits, target, weights, sigmoid, ignore_index, Formula(*formula))
    if count:
        refuse_values(op, logits, sigmoid, count, value)
    return loss, slopes


def _forward_fake(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    op: str,
    sigmoid: bool,
    ignore_index: int,
    *formula: Any,
) -> tuple[Tensor, Tensor]:
    return (
        logits.new_empty((), dtype=torch.promote_types(logits.dtype, torch.float32)),
        logits.new_empty((logits.shape[0], SLOPES, logits.shape[1]), dtype=torch.float64),
    )


def _backward(
    grad: Tensor, logits: Tensor, target: Tensor, slopes: Tensor, op: str, sigmoid: bool, ignore_index: int
) -> Tensor:
    launch = select.kernel(op, logits).segmentation_loss_backward
    return launch(grad, logits, target, slopes, sigmoid, ignore_index)


def _backward_fake(
    grad: Tensor, logits: Tensor, target: Tensor, slopes: Tensor, op: str, sigmoid: bool, ignore_index: int
) -> Tensor:
    return output_like(logits)


_forward_op = register(
    "segmentation_loss(Tensor logits, Tensor target, Tensor? class_weights, str op, bool sigmoid, int ignore_index, "
    "bool generalized, float overlap_weight, float ce_weight, float fp_weight, float fn_weight, float smooth, "
    "float gamma, bool batch, bool include_background, bool balanced) -> (Tensor loss, Tensor slopes)",
    _forward,
    _forward_fake,
)
_backward_op = register(
    "segmentation_loss_backward(Tensor grad, Tensor logits, Tensor target, Tensor slopes, str op, bool sigmoid, "
    "int ignore_index) -> Tensor",
    _backward,
    _backward_fake,
)
