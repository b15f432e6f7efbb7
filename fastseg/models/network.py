"""What inference, training and weight files ask of a network."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

Output = Literal["softmax", "sigmoid"]


class SegmentationNetwork(nn.Module):
    """A network that maps images to logits of the same size.

    Attributes:
        name: under which :func:`fastseg.models.create` makes it.
        channels_last: the layout in which it is fastest on a CPU, as measured; the default of ``create``.
        spatial_dims: 2 for (N, C, H, W), 3 for (N, C, D, H, W).
        in_channels, out_channels: of the image and of the logits.
        size_divisor: every spatial size of the input is a multiple of it.
        output: ``"softmax"``: channels are classes that exclude each other, the first is the background;
            ``"sigmoid"``: channels are regions that may overlap.
        config: the arguments that ``create`` was called with; with ``name`` they make the network again.
        only_at_start: arguments that are not in ``config``: files from which a new network takes weights.
    """

    name: ClassVar[str]
    channels_last: ClassVar[bool] = False
    only_at_start: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, *, spatial_dims: int, in_channels: int, out_channels: int, size_divisor: int, output: Output
    ) -> None:
        super().__init__()
        for argument, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value < 1:
                raise ValueError(f"{self.name}: {argument} is {value}, expected a number >= 1")
        if spatial_dims not in (2, 3):
            raise ValueError(f"{self.name}: spatial_dims is {spatial_dims}, expected 2 or 3")
        if output not in ("softmax", "sigmoid"):
            raise ValueError(f"{self.name}: output is {output!r}, expected one of 'softmax', 'sigmoid'")
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.size_divisor = size_divisor
        self.output: Output = output
        self.config: dict[str, Any] = {}

    def check_input(self, x: Tensor) -> None:
        """Refuse what the network cannot take; every ``forward`` begins with it.

        Raises:
            ValueError: another rank, number of channels or sizes; names what was expected.
        """
        if x.ndim != self.spatial_dims + 2:
            raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}, expected rank {self.spatial_dims + 2}")
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"{self.name}: x has {x.shape[1]} channels (shape {tuple(x.shape)}), expected {self.in_channels}"
            )
        if any(size == 0 or size % self.size_divisor for size in x.shape[2:]):
            raise ValueError(
                f"{self.name}: x has spatial sizes {tuple(x.shape[2:])}, expected multiples of {self.size_divisor}"
            )

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, K, ...) to probabilities of the same shape, by ``output``."""
        return torch.softmax(logits, 1) if self.output == "softmax" else torch.sigmoid(logits)
