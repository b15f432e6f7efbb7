"""Networks whose answer is known: what goes in comes out, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastseg.models import SegmentationNetwork
from fastseg.models.network import Output


class Voxelwise(SegmentationNetwork):
    """Logits of each voxel from that voxel alone, so that neither windows nor turns change them."""

    name = "voxelwise"

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor] = torch.clone,
        *,
        spatial_dims: int = 3,
        channels: tuple[int, int] = (3, 3),
        size_divisor: int = 4,
        output: Output = "sigmoid",
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=channels[0],
            out_channels=channels[1],
            size_divisor=size_divisor,
            output=output,
        )
        self.logits = logits
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[torch.dtype] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        self.shapes.append(tuple(x.shape))
        result = self.logits(x) * self.scale
        # What autocast makes of a product of matrices tells which arithmetic was asked for.
        self.dtypes.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return result


class Place(Voxelwise):
    """Logits that say where in the window a voxel is: no flip or turn leaves them alone."""

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(-2, 2, x[0, 0].numel(), device=x.device).view(x.shape[2:])
        return super().forward(x) + ramp
