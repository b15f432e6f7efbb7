"""Up-sampling layers: torch's numbers in all layouts, dtypes, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastseg
from fastseg.nn import Upsample2d, Upsample3d, UpsampleConcat2d
from fastseg.ops import beside_torch
from fastseg.ops.up_conv import pays
from tests.nn.gradients import LAYOUTS, assert_same, gradients
from tests.support import in_layout


@pytest.mark.parametrize("size", ((3, 4), (1, 1), (1, 5)), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", (True, False))
def test_upsample(layout, bias, size):
    torch.manual_seed(0)
    layer = UpsampleConcat2d(6, 5, bias).double()
    x = in_layout(torch.randn(3, 6, *size, dtype=torch.float64), layout).requires_grad_()
    skip = in_layout(torch.randn(3, 4, *(2 * s for s in size), dtype=torch.float64), layout).requires_grad_()
    y = torch.cat((skip, F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)), 1)
    ours = layer(x, skip)
    if layout == "channels_last" and size != (1, 1):
        assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_same(gradients(ours, x, skip, *layer.parameters()), gradients(y, x, skip, *layer.parameters()))


@pytest.mark.parametrize("size", ((3, 4), (1, 1)), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", (True, False))
def test_upsample_alone(layout, bias, size):
    torch.manual_seed(0)
    layer = Upsample2d(6, 5, bias).double()
    x = in_layout(torch.randn(3, 6, *size, dtype=torch.float64), layout).requires_grad_()
    y = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
    assert_same(gradients(layer(x), x, *layer.parameters()), gradients(y, x, *layer.parameters()))
    half = x.detach().bfloat16()
    layer.bfloat16()
    assert torch.equal(layer(half), F.conv_transpose2d(half, layer.weight, layer.bias, stride=2))
    with pytest.raises(ValueError, match=r"^Upsample2d: x has shape \(1, 7, 4, 4\), expected \(N, 6, H, W\)"):
        layer(torch.ones(1, 7, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^Upsample2d: x has shape \(6, 4, 4\), expected rank 4"):
        layer(torch.zeros(6, 4, 4))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_upsample_of_volumes(layout):
    torch.manual_seed(0)
    layer = Upsample3d(6, 5).double()
    x = in_layout(torch.randn(2, 6, 3, 4, 5, dtype=torch.float64), layout).requires_grad_()
    y = F.conv_transpose3d(x, layer.weight, layer.bias, stride=2)
    assert_same(gradients(layer(x), x, *layer.parameters()), gradients(y, x, *layer.parameters()))
    assert list(layer.state_dict()) == ["weight", "bias"]
    with pytest.raises(ValueError, match=r"^Upsample3d: x has shape \(1, 7, 4, 4, 4\), expected \(N, 6, D, H, W\)"):
        layer(torch.ones(1, 7, 4, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_sixteen_bits_are_torchs(layout):
    """The same bits by autocast."""
    torch.manual_seed(0)
    up = UpsampleConcat2d(6, 5)
    x, skip = in_layout(torch.randn(2, 6, 4, 5), layout), in_layout(torch.randn(2, 3, 8, 10), layout)
    with torch.autocast("cpu", torch.bfloat16):
        joined = torch.cat((skip, F.conv_transpose2d(x, up.weight, up.bias, stride=2)), 1)
        assert torch.equal(up(x, skip), joined)


@pytest.mark.parametrize(
    ("channels", "layout", "expected"),
    (
        ((256, 255), "contiguous", True),
        ((256, 256), "contiguous", False),
        ((256, 256), "channels_last", True),
        ((3, 1), "channels_last", True),
    ),
)
def test_where_ours_pays(channels, layout, expected, monkeypatch):
    x, weight = in_layout(torch.empty(2, channels[0], 3, 4), layout), torch.empty(*channels, 2, 2)
    assert pays(x, weight) == expected
    assert pays(x, weight.to(memory_format=torch.channels_last))
    assert not pays(x.double(), weight) and not pays(x.to(torch.complex64), weight.to(torch.complex64))
    with fastseg.backend("cpu"):
        assert pays(x, weight)
    with fastseg.backend("reference"):
        assert not pays(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, weight)
    monkeypatch.setattr(beside_torch, "_WIDE", False)
    assert not pays(x, weight)


def test_keys_are_torchs():
    own, torchs = UpsampleConcat2d(2, 3), torch.nn.ConvTranspose2d(2, 3, 2, 2)
    own.load_state_dict(torchs.state_dict(), strict=True)


def test_refusals_of_the_concatenation():
    up = UpsampleConcat2d(2, 3)
    with pytest.raises(ValueError, match=r"^UpsampleConcat2d: x has shape \(2, 4, 4\), expected rank 4"):
        up(torch.zeros(2, 4, 4), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"^UpsampleConcat2d: skip has shape \(1, 1, 8, 9\), expected \(1, C, 8, 8\)$"):
        up(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 8, 9))
