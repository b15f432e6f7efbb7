"""Atrous spatial pyramid pooling (ASPP) and context enhancement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg import ops
from fastseg.nn.context_norm import activate, fold_pays, folded, is_affine_map, norm_act
from fastseg.nn.depthwise import (
    DepthwiseSeparableConv2d,
    DepthwiseSeparableConv3d,
    PointwiseConv2d,
    PointwiseConv3d,
)
from fastseg.nn.norm import FusedActivation
from fastseg.ops.checks import check_choice
from fastseg.ops.norm import Activation

_DENSE: dict[int, Callable[..., Tensor]] = {4: ops.aspp_conv2d, 5: ops.aspp_conv3d}
_SEPARABLE: dict[int, Callable[..., Tensor]] = {4: ops.separable_aspp_conv2d, 5: ops.separable_aspp_conv3d}
NORMS = ("batch", "instance", "none")


def run_branches(
    x: Tensor,
    convs: Sequence[Any],
    norms: Sequence[nn.Module | None],
    activation: Activation,
    negative_slope: float = 0.01,
) -> Tensor:
    """act(norm(conv(x))) of all branches side by side.

    ``convs``: convolutions with "same" padding, or Sequentials of a depthwise and a 1x1 convolution. ``norms``: one for
    each of them, or None.
    """
    last: list[Any] = [conv[-1] if isinstance(conv, nn.Sequential) else conv for conv in convs]
    weights, biases = [conv.weight for conv in last], [conv.bias for conv in last]
    if all(norm is not None and is_affine_map(norm) for norm in norms) and fold_pays(x, weights):
        pairs = [folded(*branch) for branch in zip(norms, weights, biases, strict=True)]
        weights, biases = [weight for weight, _ in pairs], [bias for _, bias in pairs]
        norms = [None] * len(norms)
    separable = any(isinstance(conv, nn.Sequential) for conv in convs)
    first = [conv[0] if isinstance(conv, nn.Sequential) else conv for conv in convs]
    dilations = [conv.dilation for conv in first]
    if separable:
        y = _SEPARABLE[x.ndim](
            x,
            [conv[0].weight if isinstance(conv, nn.Sequential) else None for conv in convs],
            weights,
            dilations=dilations,
            depthwise_biases=[conv[0].bias if isinstance(conv, nn.Sequential) else None for conv in convs],
            pointwise_biases=biases,
        )
    else:
        y = _DENSE[x.ndim](x, weights, dilations=dilations, biases=biases)
    return norm_act(y, norms, activation, negative_slope)


def fuse(y: Tensor, pooled: Tensor | None, conv: Any, norm: nn.Module | None = None) -> Tensor:
    """A 1x1 convolution of y beside ``pooled`` (N, C', 1, ...), one pixel that stands for a constant image.

    The constant's part of the sum is the same for all pixels, so that the image is not made. An affine ``norm`` goes
    into the weights where these are few; any other is called.
    """
    weight, bias = conv.weight, conv.bias
    if norm is not None and is_affine_map(norm) and fold_pays(y, [weight]):
        weight, bias = folded(norm, weight, bias)
        norm = None
    channels = y.shape[1]
    z = ops.pointwise_conv(y, weight[:, :channels], bias)
    if pooled is not None:
        # In place: a convolution does not need its output for backward.
        z.add_(_CONV[y.ndim](pooled, weight[:, channels:]))
    return z if norm is None else norm(z)


_CONV: dict[int, Callable[..., Tensor]] = {4: F.conv2d, 5: F.conv3d}


def global_mean(x: Tensor) -> Tensor:
    """(N, C, 1, ...): the mean of each channel."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


class _ASPP(FusedActivation, nn.Module):
    _conv: type[nn.Module]
    _separable: type[nn.Module] | None = None
    _pointwise: type[nn.Module]
    _norms: ClassVar[dict[str, type[nn.Module]]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int] = (1, 6, 12, 18),
        *,
        kernel_sizes: Sequence[int] | None = None,
        branch_channels: int | None = None,
        image_pooling: bool = False,
        norm: str = "batch",
        activation: Activation = "relu",
        negative_slope: float = 0.01,
        dropout: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_choice(name, "norm", norm, NORMS)
        kernels = [3] * len(dilations) if kernel_sizes is None else list(kernel_sizes)
        if not dilations or len(kernels) != len(dilations) or any(k % 2 == 0 for k in kernels):
            raise ValueError(
                f"{name}: kernel_sizes is {kernel_sizes!r}, expected an odd number for each of dilations {dilations!r}"
            )
        inner = out_channels if branch_channels is None else branch_channels
        self._to: dict[str, Any] = {"device": device, "dtype": dtype}
        self._norm, self._has_bias = norm, norm == "none"
        self.convs = nn.ModuleList(
            self._branch(in_channels, inner, k, d) for k, d in zip(kernels, dilations, strict=True)
        )
        self.norms = nn.ModuleList(self._new_norm(inner) for _ in dilations)
        self.pooling = nn.Sequential() if image_pooling else None
        if self.pooling is not None:
            # One pixel has no variance: beside instance norms the pooled branch has none.
            self.pooling.append(self._pointwise(in_channels, inner, norm != "batch", **self._to))
            self.pooling.append(self._new_norm(inner) if norm == "batch" else nn.Identity())
        branches = len(kernels) + image_pooling
        self.fuse = self._pointwise(branches * inner, out_channels, self._has_bias, **self._to)
        self.fuse_norm = self._new_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.set_activation(activation, negative_slope)

    def _branch(self, in_channels: int, out_channels: int, kernel: int, dilation: int) -> nn.Module:
        padding = dilation * (kernel - 1) // 2
        arguments: dict[str, Any] = {"padding": padding, "dilation": dilation, "bias": self._has_bias, **self._to}
        if kernel == 1 or self._separable is None:
            return self._conv(in_channels, out_channels, kernel, **arguments)
        return self._separable(in_channels, out_channels, kernel, **arguments)

    def _new_norm(self, channels: int) -> nn.Module:
        if self._norm == "none":
            return nn.Identity()
        return self._norms[self._norm](channels, affine=True, **self._to)

    def forward(self, input: Tensor) -> Tensor:
        norms = [None if isinstance(norm, nn.Identity) else norm for norm in self.norms]
        y = run_branches(input, list(self.convs), norms, self.activation, self.negative_slope)
        pooled = None
        if self.pooling is not None:
            pooled = activate(self.pooling(global_mean(input)), self.activation, self.negative_slope)
        fuse_norm = None if isinstance(self.fuse_norm, nn.Identity) else self.fuse_norm
        if fuse_norm is None or is_affine_map(fuse_norm):
            z = activate(fuse(y, pooled, self.fuse, fuse_norm), self.activation, self.negative_slope)
        else:
            z = norm_act(fuse(y, pooled, self.fuse), [fuse_norm], self.activation, self.negative_slope)
        return self.dropout(z)

    def extra_repr(self) -> str:
        return self.activation_repr().removeprefix(", ")


class ASPP2d(_ASPP):
    """Atrous spatial pyramid pooling: dilated convolutions side by side, each with norm and activation, fused by 1x1.

    Args:
        in_channels: of the input, (N, C, H, W).
        out_channels: of the output.
        dilations: of the branches.
        kernel_sizes: of the branches, odd; all 3 when None. DeepLabV3's first branch has 1.
        branch_channels: outputs of each branch; ``out_channels`` when None.
        image_pooling: adds a branch of the mean over all pixels (1x1 convolution, norm, activation).
        norm: ``"batch"``, ``"instance"`` or ``"none"`` (then convolutions have a bias), of the branches and of the
            fusing convolution. Batch norms in eval run inside the weights before them.
        activation: ``"relu"``, ``"leaky_relu"`` (with ``negative_slope``) or ``"none"``.
        dropout: of the output.

    Raises:
        ValueError: an unknown norm or activation, or kernel sizes that are even or not one for each dilation.
    """

    _conv, _pointwise = nn.Conv2d, PointwiseConv2d
    _norms: ClassVar = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}


class ASPP3d(_ASPP):
    """:class:`ASPP2d` for volumes, (N, C, D, H, W)."""

    _conv, _pointwise = nn.Conv3d, PointwiseConv3d
    _norms: ClassVar = {"batch": nn.BatchNorm3d, "instance": nn.InstanceNorm3d}


class SeparableASPP2d(ASPP2d):
    """:class:`ASPP2d` of depthwise-separable branches; those of kernel size 1 are 1x1 convolutions."""

    _separable = DepthwiseSeparableConv2d


class SeparableASPP3d(ASPP3d):
    """:class:`ASPP3d` of depthwise-separable branches; those of kernel size 1 are 1x1 convolutions."""

    _separable = DepthwiseSeparableConv3d


class ContextEnhancement(nn.Module):
    """Context enhancement: a 3x3 convolution, then depthwise-separable dilated convolutions in series, whose outputs
    are concatenated and fused by a 1x1 convolution; relu of that, plus the input.

    Args:
        channels: of input and output, (N, C, H, W).
        dilations: of the convolutions in series.
        kernel_size: of the convolutions, odd.
    """

    _pointwise, _separable = PointwiseConv2d, DepthwiseSeparableConv2d

    def __init__(
        self,
        channels: int,
        dilations: Sequence[int] = (1, 2, 4, 8),
        kernel_size: int = 3,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if not dilations or kernel_size % 2 == 0:
            raise ValueError(
                f"ContextEnhancement: dilations is {dilations!r} and kernel_size {kernel_size}, expected at least one "
                "dilation and an odd size"
            )
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, **to)
        self.stages = nn.ModuleList(
            self._separable(channels, channels, kernel_size, padding=d * (kernel_size - 1) // 2, dilation=d, **to)
            for d in dilations
        )
        self.fuse = self._pointwise(len(dilations) * channels, channels, **to)

    def forward(self, input: Tensor) -> Tensor:
        y = ops.aspp_conv2d(input, [self.conv.weight], dilations=[1], biases=[self.conv.bias])
        outputs = []
        for stage in self.stages:
            y = stage(y)
            outputs.append(y)
        return F.relu_(self.fuse(torch.cat(outputs, 1))) + input
