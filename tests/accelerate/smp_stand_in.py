"""Classes of the names and structure of segmentation_models_pytorch.decoders.deeplabv3.decoder.

SMP needs torchvision's operators, which this torch build may not have.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "segmentation_models_pytorch.decoders.deeplabv3.decoder"


class SeparableConv2d(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int, dilation: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, padding=padding, dilation=dilation, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )


class ASPPPooling(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self:
            y = layer(y)
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, rates: tuple[int, ...], separable: bool = False, dropout: float = 0.5
    ) -> None:
        super().__init__()
        convs: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, bias=False)]
        for rate in rates:
            if separable:
                convs.append(SeparableConv2d(inputs, outputs, 3, rate, rate))
            else:
                convs.append(nn.Conv2d(inputs, outputs, 3, padding=rate, dilation=rate, bias=False))
        branches: list[nn.Module] = [nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU()) for conv in convs]
        self.convs = nn.ModuleList([*branches, ASPPPooling(inputs, outputs)])
        self.project = nn.Sequential(
            nn.Conv2d(len(self.convs) * outputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], 1))
        return y


for _class in (SeparableConv2d, ASPP):
    _class.__module__ = NAME


@contextmanager
def installed() -> Iterator[None]:
    """The classes under their names, as if SMP were there."""
    parts = NAME.split(".")
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == parts[0]}
    parents = [".".join(parts[: i + 1]) for i in range(len(parts))]
    for name in parents:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []  # type: ignore[attr-defined]
    vars(sys.modules[NAME]).update(SeparableConv2d=SeparableConv2d, ASPP=ASPP)
    try:
        yield
    finally:
        for name in parents:
            del sys.modules[name]
        sys.modules.update(before)
