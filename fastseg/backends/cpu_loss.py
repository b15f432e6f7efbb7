"""Launches the CPU kernels of the losses. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.loss_call import SLOPES, SUMS, TRUTH, Formula, truth_for
from fastseg.backends.memory import empty_like
from fastseg.backends.views import layout_of, strides3, view


def _shape(logits: Tensor) -> tuple[int, int, int]:
    return logits.shape[0], logits.shape[1], logits.shape[2:].numel()


def _truth(target: Tensor) -> tuple[int, int, int, int, int]:
    return target.data_ptr(), TRUTH[target.dtype], *strides3(target)


def segmentation_loss_forward(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, sigmoid: bool, ignore_index: int, formula: Formula
) -> tuple[Tensor, Tensor, tuple[int, float]]:
    """The loss, its slopes by the sums, and how many voxels have a truth that is none, and one of these values."""
    shape = _shape(logits)
    if layout_of(logits) is None:
        logits = logits.contiguous()
    target = truth_for(target)
    sums = torch.empty((shape[0], SUMS, shape[1]), dtype=torch.float64)
    wrong, loss = torch.empty(2, dtype=torch.float64), torch.empty((), dtype=torch.float64)
    slopes = torch.empty((shape[0], SLOPES, shape[1]), dtype=torch.float64)
    _C.loss_sums(
        *shape,
        view(logits),
        _truth(target),
        sigmoid,
        ignore_index,
        sums.data_ptr(),
        wrong.data_ptr(),
        torch.get_num_threads(),
    )
    _C.loss_formula(
        *shape,
        sigmoid,
        sums.data_ptr(),
        0 if class_weights is None else class_weights.data_ptr(),
        formula.balanced,
        formula.generalized,
        formula.overlap_weight,
        formula.ce_weight,
        formula.fp_weight,
        formula.fn_weight,
        formula.smooth,
        formula.gamma,
        formula.batch,
        formula.include_background,
        loss.data_ptr(),
        slopes.data_ptr(),
    )
    count, value = wrong.tolist()
    return loss.to(torch.promote_types(logits.dtype, torch.float32)), slopes, (int(count), value)


def segmentation_loss_backward(
    grad: Tensor, logits: Tensor, target: Tensor, slopes: Tensor, sigmoid: bool, ignore_index: int
) -> Tensor:
    if layout_of(logits) is None:
        logits = logits.contiguous()
    target, dlogits = truth_for(target), empty_like(logits)
    _C.loss_gradient(
        *_shape(logits),
        view(logits),
        _truth(target),
        sigmoid,
        ignore_index,
        slopes.data_ptr(),
        grad.item(),
        view(dlogits),
        torch.get_num_threads(),
    )
    return dlogits
