"""Images and volumes of one pixel, which lie in both layouts at once, and of two: as at the bottom of a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastseg
from tests.nn.gradients import assert_same, gradients
from tests.support import in_layout

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "ASPP": (7, (1, 6)),
    "BatchNormAct": (),
    "DenseConv": (7, 3, 1, 1),
    "DenseConvTranspose": (7, 3, 2, 1, 1),
    "DepthwiseConv": (3, 1, 1),
    "DepthwiseConvTranspose": (3, 2, 1, 1),
    "DepthwiseSeparableConv": (7, 3, 1, 1),
    "MultiScaleConv": (7,),
    "PointwiseConv": (7,),
    "SeparableASPP": (7, (1, 6)),
    "Upsample": (7,),
}


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("channels", (1, 20))
@pytest.mark.parametrize("size", ((1, 1), (1, 2), (2, 1), (1, 1, 1), (2, 1, 1)), ids=str)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_few_pixels(name, size, channels, layout):
    torch.manual_seed(0)
    layer = getattr(fastseg.nn, f"{name}{len(size)}d")(channels, *ARGUMENTS[name]).double().eval()
    x = in_layout(torch.randn(2, channels, *size, dtype=torch.float64), layout).requires_grad_()
    results = []
    for backend in ("cpu", "reference"):
        with fastseg.backend(backend):
            with torch.no_grad():  # may run other kernels
                y = layer(x)
            results.append([y, *gradients(layer(x), x, *layer.parameters())])
    assert_same(*results)
