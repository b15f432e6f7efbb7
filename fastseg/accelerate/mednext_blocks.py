"""The forward pass that MedNeXt's blocks share, with the norm's statistics gathered by the convolution before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastseg.ops import depthwise_instance_norm_act


class FusedForward:
    """Stands before a stock MedNeXtBlock in the order of base classes; the up and down blocks call it as theirs."""

    conv1: Any
    norm: Any
    conv2: Any
    act: Any
    conv3: Any
    do_res: Any
    dim: Any

    def forward(self, x: Tensor, dummy_tensor: Tensor | None = None) -> Tensor:
        """``dummy_tensor`` is what the original hands to torch.utils.checkpoint; it is not used there either."""
        y = self.act(self.conv2(self._normalized(x)))
        if (response := self.response_norm()) is not None:
            gamma, beta = response
            norm = torch.norm(y, p=2, dim=(-2, -1) if self.dim == "2d" else (-3, -2, -1), keepdim=True)
            y = gamma * (y * (norm / (norm.mean(dim=1, keepdim=True) + 1e-6))) + beta + y
        y = self.conv3(y)
        return x + y if self.do_res else y

    def response_norm(self) -> tuple[Tensor, Tensor] | None:
        """gamma and beta of the global response norm, where the block has one."""
        raise NotImplementedError

    def _normalized(self, x: Tensor) -> Tensor:
        conv, norm = self.conv1, self.norm
        if conv.transposed:
            y: Tensor = norm(conv(x))
            return y
        return depthwise_instance_norm_act(
            x,
            conv.weight,
            conv.bias,
            norm_weight=norm.weight,
            norm_bias=norm.bias,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            eps=norm.eps,
        )
