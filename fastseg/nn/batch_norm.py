"""Batch-norm layers that carry the activation that follows them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.nn.norm import FusedActivation
from fastseg.ops import batch_norm_act
from fastseg.ops.batch_norm import runs_fused
from fastseg.ops.checks import check_same_shape
from fastseg.ops.norm import Activation

# Elements from where the CPU kernel was faster than torch's ops in networks: those take more passes, which cost little
# in caches.
TRAINING_FROM = 1 << 19
EVAL_FROM = 1 << 21


class _BatchNormAct(FusedActivation, nn.modules.batchnorm._BatchNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation = "relu",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.set_activation(activation, negative_slope)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(input)
        if input.shape[1] != self.num_features and (self.affine or self.running_mean is not None):
            raise ValueError(
                f"{type(self).__name__}: input has {input.shape[1]} channels (shape {tuple(input.shape)}), expected "
                f"num_features={self.num_features}"
            )
        return self._fused(input, residual) if self._fuses(input) else self._unfused(input, residual)

    def _fuses(self, x: Tensor) -> bool:
        if runs_fused(x, TRAINING_FROM if self.training else EVAL_FROM):
            return True
        # What torch's ops refuse is the op's to run, or to refuse: more dtypes, and no or single elements.
        given = self.running_mean if self.weight is None else self.weight
        mixed = given is not None and given.dtype not in (x.dtype, torch.float32 if x.itemsize == 2 else x.dtype)
        return not torch.compiler.is_exporting() and (mixed or x.numel() <= x.shape[1])

    def _unfused(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """By torch's ops, in place as most networks have it: a batch norm does not need its output for backward."""
        check_same_shape(type(self).__name__, "residual", residual, input)
        y = nn.modules.batchnorm._BatchNorm.forward(self, input)
        if residual is not None:
            y += residual
        if self.activation == "relu":
            return F.relu_(y)
        return F.leaky_relu_(y, self.negative_slope) if self.activation == "leaky_relu" else y

    def _fused(self, input: Tensor, residual: Tensor | None) -> Tensor:
        # As torch's layer: momentum None is the plain average of all batches so far, and without running statistics
        # those of the batch serve in eval mode too.
        updates = self.training and self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        counted = self.num_batches_tracked if updates else None
        if counted is not None and self.momentum is None:
            momentum = 1.0 / (float(counted) + 1)
        known = updates or not self.training
        y = batch_norm_act(
            input,
            self.weight,
            self.bias,
            self.running_mean if known else None,
            self.running_var if known else None,
            residual=residual,
            activation=self.activation,
            negative_slope=self.negative_slope,
            training=self.training or self.running_mean is None,
            momentum=momentum,
            eps=self.eps,
        )
        # After the op, as the running statistics: torch.utils.checkpoint runs forward again up to what was saved.
        if counted is not None:
            counted.add_(1)
        return y

    def extra_repr(self) -> str:
        return super().extra_repr() + self.activation_repr()


class BatchNormAct2d(_BatchNormAct, nn.BatchNorm2d):
    """``act(BatchNorm2d(x) + residual)``: torch's arguments and state_dict keys, (N, C, H, W).

    Args:
        activation: ``"relu"``, ``"leaky_relu"`` or ``"none"``, with ``negative_slope``. The other arguments are those
            of :class:`torch.nn.BatchNorm2d`, and running statistics are kept as there.

    On the CPU it runs :func:`fastseg.ops.batch_norm_act` from some size on, and elsewhere torch's ops in place.
    ``forward(input, residual=None)`` adds ``residual`` (input's shape) before the activation.

    Statistics are those of one process. ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` must not see this layer: it
    would put a layer without the activation in its place.
    """


class BatchNormAct3d(_BatchNormAct, nn.BatchNorm3d):
    """``act(BatchNorm3d(x) + residual)`` of (N, C, D, H, W): see :class:`BatchNormAct2d`."""
