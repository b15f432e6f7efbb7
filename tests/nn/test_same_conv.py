"""Dense convolutions: torch's numbers in both layouts, dtypes, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastseg
from fastseg.nn import SameConv2d, SameConv3d
from fastseg.ops import beside_torch, same_conv
from fastseg.ops.same_conv import pays
from tests.nn.gradients import LAYOUTS, assert_same, gradients
from tests.support import in_layout


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kernel", "dilation", "bias"), ((3, 1, True), (5, 2, False), (1, 1, True)))
@pytest.mark.parametrize(("cls", "conv", "image"), ((SameConv2d, F.conv2d, (9, 8)), (SameConv3d, F.conv3d, (4, 6, 5))))
def test_same_conv(cls, conv, image, layout, kernel, dilation, bias, monkeypatch):
    monkeypatch.setattr(same_conv, "ENOUGH_PIXELS", 0)
    torch.manual_seed(0)
    layer = cls(25, 27, kernel, dilation, bias).double()
    x = in_layout(torch.randn(2, 25, *image, dtype=torch.float64), layout).requires_grad_()
    y = conv(x, layer.weight, layer.bias, padding="same", dilation=dilation)
    assert pays(x, layer.weight)
    assert_same(gradients(layer(x), x, *layer.parameters()), gradients(y, x, *layer.parameters()))


@pytest.mark.parametrize(
    ("shape", "weight", "expected"),
    (
        ((2, 24, 32, 32), (24, 24, 3, 3), True),
        ((2, 24, 32, 31), (24, 24, 3, 3), False),
        ((2, 23, 32, 32), (24, 23, 3, 3), False),
        ((2, 3, 32, 32), (64, 3, 3, 3), False),
        ((2, 3, 8, 8), (2, 3, 1, 1), True),
        ((1, 1, 1024, 1024), (8, 1, 3, 3), True),  # 32 MiB
        ((1, 1, 1024, 1016), (8, 1, 3, 3), False),
        ((1, 5, 64, 64, 64), (4, 5, 3, 3, 3), True),  # torch's im2col
        ((1, 6, 64, 64, 64), (4, 6, 3, 3, 3), False),
        ((2, 5, 64, 64, 64), (4, 5, 3, 3, 3), False),
    ),
)
def test_where_ours_pays(shape, weight, expected, monkeypatch):
    x, weight = torch.empty(shape), torch.empty(weight)
    assert pays(x, weight) == expected
    with fastseg.backend("cpu"):
        assert pays(x, weight)
    for name in ("reference", "triton"):
        with fastseg.backend(name):
            assert not pays(x, weight)
    assert not pays(x.bfloat16(), weight) and not pays(x.to("meta"), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, weight)
    monkeypatch.setattr(beside_torch, "_WIDE", False)
    assert not pays(x, weight)


def test_few_channels_are_torchs():
    layer, x = SameConv3d(3, 4), torch.randn(2, 3, 5, 6, 7)
    assert torch.equal(layer(x), F.conv3d(x, layer.weight, layer.bias, padding=1))


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_sixteen_bits_are_torchs(layout):
    """The same bits as torch's layers, also by autocast."""
    torch.manual_seed(0)
    conv, x = SameConv2d(6, 4), in_layout(torch.randn(2, 6, 4, 5), layout)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.conv2d(x, conv.weight, conv.bias, padding=1)
        assert torch.equal(conv(x), expected) and expected.dtype == torch.bfloat16
    half = x.bfloat16()
    assert torch.equal(conv.bfloat16()(half), F.conv2d(half, conv.weight, conv.bias, padding=1))


def test_keys_are_torchs():
    assert list(SameConv2d(2, 3).state_dict()) == list(torch.nn.Conv2d(2, 3, 3).state_dict())


def test_refusals():
    with pytest.raises(ValueError, match=r"^SameConv2d: kernel_size is 2, expected an odd number$"):
        SameConv2d(2, 3, 2)
    with pytest.raises(ValueError, match=r"^SameConv2d: input has shape \(2, 4, 4\), expected rank 4"):
        SameConv2d(2, 3)(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"^SameConv2d: input has 3 channels \(shape .*\), expected in_channels=2$"):
        SameConv2d(2, 3)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"^SameConv3d: input has shape \(1, 2, 4, 4\), expected rank 5"):
        SameConv3d(2, 3)(torch.zeros(1, 2, 4, 4))
