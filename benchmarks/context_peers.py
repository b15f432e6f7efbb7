"""What users run today for ASPP, beside what fastseg runs: branches by torch and a concatenation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import channels_last, compiled, same
from fastseg.ops import aspp_conv2d, separable_aspp_conv2d

Function = Callable[..., Tensor]


def eager_dense(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int]) -> Tensor:
    return torch.cat([F.conv2d(x, w, padding=d, dilation=d) for w, d in zip(weights, dilations, strict=True)], 1)


def fused_dense(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int]) -> Tensor:
    return aspp_conv2d(x, weights, dilations=dilations)


def eager_separable(
    x: Tensor, depthwise: Sequence[Tensor], pointwise: Sequence[Tensor], dilations: Sequence[int]
) -> Tensor:
    branches = []
    for w, p, d in zip(depthwise, pointwise, dilations, strict=True):
        branches.append(F.conv2d(F.conv2d(x, w, padding=d, dilation=d, groups=x.shape[1]), p))
    return torch.cat(branches, 1)


def fused_separable(
    x: Tensor, depthwise: Sequence[Tensor], pointwise: Sequence[Tensor], dilations: Sequence[int]
) -> Tensor:
    return separable_aspp_conv2d(x, depthwise, pointwise, dilations=dilations)


def _peers(fused: Function, eager: Function) -> dict[str, tuple[Callable[[], Function], Callable[[Tensor], Tensor]]]:
    """name -> (how the function is made, how images and weights are laid out)"""
    return {
        "fastseg": (lambda: fused, same),
        "fastseg channels-last": (lambda: fused, channels_last),
        "eager": (lambda: eager, same),
        "eager channels-last": (lambda: eager, channels_last),
        "torch.compile": (lambda: compiled(eager), same),
        "torch.compile channels-last": (lambda: compiled(eager), channels_last),
    }


DENSE_PEERS = _peers(fused_dense, eager_dense)
SEPARABLE_PEERS = _peers(fused_separable, eager_separable)
