"""Instance-norm layers that carry the activation that follows them."""

from __future__ import annotations

import warnings
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.ops import instance_norm_act
from fastseg.ops.checks import check_choice, check_not_negative
from fastseg.ops.norm import ACTIVATIONS, Activation


class FusedActivation:
    """What a norm layer needs beside its own parameters to run :func:`fastseg.ops.instance_norm_act`.

    The class attributes are what a stock layer means that was turned into its fused subclass: no activation.
    """

    activation: Activation = "none"
    negative_slope: float = 0.01

    def set_activation(self, activation: Activation, negative_slope: float) -> None:
        check_choice(type(self).__name__, "activation", activation, ACTIVATIONS)
        check_not_negative(type(self).__name__, "negative_slope", negative_slope)
        self.activation = activation
        self.negative_slope = negative_slope

    def activation_repr(self) -> str:
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f", activation={self.activation}{slope}"


def _bias(bias: bool) -> dict[str, Any]:
    """The argument for torch's layer: only newer versions can leave the bias of an affine norm out."""
    return {} if bias else {"bias": False}


class _InstanceNormAct(FusedActivation, nn.modules.instancenorm._InstanceNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: Activation = "leaky_relu",
        negative_slope: float = 0.01,
    ) -> None:
        if track_running_stats:
            raise ValueError(
                f"{type(self).__name__}: track_running_stats is True, expected False: running statistics make eval an "
                "affine map, which has nothing to fuse; use torch.nn's layer"
            )
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, **_bias(bias)
        )
        self.set_activation(activation, negative_slope)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(input)
        unbatched = input.dim() == self._get_no_batch_dim()
        x = input.unsqueeze(0) if unbatched else input
        if x.shape[1] != self.num_features:
            message = (
                f"{type(self).__name__}: input has {x.shape[1]} channels (shape {tuple(input.shape)}), expected "
                f"num_features={self.num_features}"
            )
            if self.affine:
                raise ValueError(message)
            warnings.warn(message, stacklevel=2)  # as torch's layer: without parameters the number is not used
        y = instance_norm_act(
            x,
            self.weight,
            self.bias,
            residual=residual.unsqueeze(0) if unbatched and residual is not None else residual,
            activation=self.activation,
            negative_slope=self.negative_slope,
            eps=self.eps,
        )
        return y.squeeze(0) if unbatched else y

    def extra_repr(self) -> str:
        return super().extra_repr() + self.activation_repr()


class InstanceNormAct1d(_InstanceNormAct, nn.InstanceNorm1d):
    """``act(InstanceNorm1d(x) + residual)``: torch's arguments and state_dict keys, (N, C, L) or (C, L)."""


class InstanceNormAct2d(_InstanceNormAct, nn.InstanceNorm2d):
    """``act(InstanceNorm2d(x) + residual)``: torch's arguments and state_dict keys, (N, C, H, W) or (C, H, W).

    Args:
        activation: ``"leaky_relu"``, ``"relu"`` or ``"none"``, with ``negative_slope``. The other arguments are those
            of :class:`torch.nn.InstanceNorm2d`; ``track_running_stats=True`` is refused.

    ``forward(input, residual=None)`` adds ``residual`` (input's shape) before the activation.
    """


class InstanceNormAct3d(_InstanceNormAct, nn.InstanceNorm3d):
    """``act(InstanceNorm3d(x) + residual)``: torch's arguments and state_dict keys, (N, C, D, H, W) or (C, D, H, W).

    Args:
        activation: ``"leaky_relu"``, ``"relu"`` or ``"none"``, with ``negative_slope``. The other arguments are those
            of :class:`torch.nn.InstanceNorm3d`; ``track_running_stats=True`` is refused.

    ``forward(input, residual=None)`` adds ``residual`` (input's shape) before the activation.
    """


class GroupNormAct(FusedActivation, nn.GroupNorm):
    """``act(GroupNorm(C, C)(x) + residual)``: a group norm with one channel a group is an affine instance norm."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: Activation = "leaky_relu",
        negative_slope: float = 0.01,
    ) -> None:
        if num_groups != num_channels:
            raise ValueError(
                f"GroupNormAct: num_groups is {num_groups}, expected num_channels={num_channels}: only one channel a "
                "group is an instance norm"
            )
        super().__init__(num_groups, num_channels, eps, affine, device=device, dtype=dtype, **_bias(bias))
        self.set_activation(activation, negative_slope)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if input.shape[1] != self.num_channels:
            raise ValueError(
                f"GroupNormAct: input has {input.shape[1]} channels (shape {tuple(input.shape)}), expected "
                f"num_channels={self.num_channels}"
            )
        if input.ndim < 3 or input.shape[2:].numel() == 1:
            return self._forward_one_element(input, residual)
        return instance_norm_act(
            input,
            self.weight,
            self.bias,
            residual=residual,
            activation=self.activation,
            negative_slope=self.negative_slope,
            eps=self.eps,
        )

    def _forward_one_element(self, input: Tensor, residual: Tensor | None) -> Tensor:
        """One element a channel, which torch's group norm takes where a batch has several samples."""
        y = super().forward(input)
        if residual is not None:
            y = y + residual
        if self.activation == "relu":
            return F.relu(y)
        return F.leaky_relu(y, self.negative_slope) if self.activation == "leaky_relu" else y

    def extra_repr(self) -> str:
        return super().extra_repr() + self.activation_repr()
