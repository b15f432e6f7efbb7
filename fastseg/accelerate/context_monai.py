"""MONAI's SimpleASPP with its convolutions in one op. Imported when a model of MONAI is met."""

from __future__ import annotations

from typing import Any

from monai.networks.blocks.aspp import SimpleASPP
from torch import Tensor

from fastseg.accelerate.context import monai_refusal
from fastseg.accelerate.fusion import has_hooks
from fastseg.nn.context import fuse, run_branches
from fastseg.nn.context_norm import is_affine_map


class FusedSimpleASPP(SimpleASPP):
    def forward(self, x: Tensor) -> Tensor:
        if monai_refusal(self) is not None:
            stock: Tensor = super().forward(x)
            return stock
        y = run_branches(x, list(self.convs), [None] * len(self.convs), "none")
        last: Any = self.conv_k1
        layers = list(last.adn.children()) if hasattr(last, "adn") else []
        if not layers or not is_affine_map(layers[0]) or any(map(has_hooks, (last, last.conv, last.adn, layers[0]))):
            z: Tensor = last(y)
            return z
        y = fuse(y, None, last.conv, layers[0])
        for layer in layers[1:]:
            y = layer(y)
        return y
