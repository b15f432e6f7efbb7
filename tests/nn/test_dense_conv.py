"""Dense convolutions: torch's numbers in both layouts, dtypes, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastseg
from fastseg.nn import DenseConv2d, DenseConv3d, DenseConvTranspose2d, DenseConvTranspose3d, SameConv2d, SameConv3d
from fastseg.ops import beside_torch, dense_beside_torch
from fastseg.ops.dense_beside_torch import pays, transposed_pays
from tests.nn.gradients import LAYOUTS, assert_same, gradients
from tests.support import in_layout


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kernel", "dilation", "bias"), ((3, 1, True), (5, 2, False), (1, 1, True)))
@pytest.mark.parametrize(("cls", "conv", "image"), ((SameConv2d, F.conv2d, (9, 8)), (SameConv3d, F.conv3d, (4, 6, 5))))
def test_same_conv(cls, conv, image, layout, kernel, dilation, bias, monkeypatch):
    for limit in ("TILED_PIXELS", "ENOUGH_PIXELS"):
        monkeypatch.setattr(dense_beside_torch, limit, 0)
    torch.manual_seed(0)
    layer = cls(25, 27, kernel, dilation, bias).double()
    x = in_layout(torch.randn(2, 25, *image, dtype=torch.float64), layout).requires_grad_()
    y = conv(x, layer.weight, layer.bias, padding="same", dilation=dilation)
    ours = layer(x)
    name = "_PointwiseConvBackward" if layer.weight[0, 0].numel() == 1 else "_DenseConvBackward"
    assert ours.grad_fn.name() == name
    assert_same(gradients(ours, x, *layer.parameters()), gradients(y, x, *layer.parameters()))


@pytest.mark.parametrize(
    ("shape", "weight", "expected"),
    (
        ((2, 16, 16, 16), (16, 16, 3, 3), True),
        ((2, 16, 16, 15), (16, 16, 3, 3), False),
        ((2, 15, 32, 32), (16, 15, 3, 3), False),
        ((2, 16, 2, 16, 8), (16, 16, 1, 3, 3), True),
        ((2, 16, 2, 16, 8), (16, 16, 3, 3, 3), True),
        ((2, 16, 2, 16, 16), (16, 16, 5, 3, 3), False),
        ((2, 24, 32, 32), (24, 24, 5, 5), True),
        ((2, 24, 32, 31), (24, 24, 5, 5), False),
        ((2, 23, 32, 32), (24, 23, 5, 5), False),
        ((2, 3, 32, 32), (64, 3, 3, 3), False),
        ((1, 1, 1024, 1024), (8, 1, 3, 3), True),  # 32 MiB
        ((1, 1, 1024, 1016), (8, 1, 3, 3), False),
        ((1, 5, 64, 64, 64), (4, 5, 3, 3, 3), True),  # torch's im2col
        ((1, 5, 64, 64, 64), (4, 5, 3, 5, 5), False),
        ((1, 6, 64, 64, 64), (4, 6, 3, 3, 3), False),
        ((2, 5, 64, 64, 64), (4, 5, 3, 3, 3), False),
    ),
)
def test_where_ours_pays(shape, weight, expected, monkeypatch):
    rank = len(shape) - 2
    padding = tuple(k // 2 for k in weight[2:])
    check_where_ours_pays(pays, shape, weight, ((1,) * rank, padding, (1,) * rank), expected, monkeypatch)


def test_tiles_need_fewer_channels_and_pixels_where_dilations_leave_some():
    x, weight = torch.empty(2, 24, 32, 31), torch.empty(24, 24, 3, 3)
    assert pays(x, weight, (1, 1), 1, (1, 1)) and pays(x, weight, (1, 1), (2, 5), (2, 5))
    assert not pays(x, weight, (1, 1), 6, (6, 6))
    assert not pays(x.double(), weight.double(), (1, 1), 1, (1, 1))
    slices = torch.empty(24, 24, 1, 3, 3)
    assert pays(x[:, :, None], slices, (1, 1, 1), (0, 2, 2), (9, 2, 2))


@pytest.mark.parametrize("padding", ("valid", (0, 0), (1, 1), (15, 15), "same"))
def test_pixels_of_the_output_count(padding):
    x, weight = torch.empty(2, 24, 60, 60), torch.empty(24, 24, 31, 31)
    enough = padding not in ("valid", (0, 0))
    assert pays(x, weight, (1, 1), padding, (1, 1)) == enough
    assert not pays(x[..., :20], weight, (1, 1), "valid", (1, 1))


def test_pointwise_without_padding():
    layer, x = DenseConv2d(3, 2, 1, padding="valid"), torch.randn(2, 3, 8, 8)
    assert layer(x).grad_fn.name() == "_PointwiseConvBackward"
    layer = DenseConv2d(3, 2, 1, padding=1)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))


@pytest.mark.parametrize(
    ("shape", "weight", "expected"),
    (
        ((2, 24, 256, 128), (24, 24, 3, 3), True),
        ((2, 24, 255, 128), (24, 24, 3, 3), False),
        ((2, 24, 256, 128), (23, 24, 3, 3), False),
        ((2, 24, 256, 128), (24, 24, 1, 1), False),
        ((2, 24, 256, 128), (24, 24, 2, 2), False),
        ((2, 3, 1024, 1024), (16, 3, 3, 3), False),
        ((2, 24, 64, 32, 16), (24, 24, 3, 3, 3), True),
        ((1, 5, 64, 64, 64), (4, 5, 3, 3, 3), True),  # torch's im2col
    ),
)
def test_where_strided_ones_pay(shape, weight, expected, monkeypatch):
    rank = len(shape) - 2
    padding = tuple(k // 2 for k in weight[2:])
    check_where_ours_pays(pays, shape, weight, ((2,) * rank, padding, (1,) * rank), expected, monkeypatch)


@pytest.mark.parametrize(
    ("shape", "weight", "expected"),
    (
        ((2, 24, 128, 64), (24, 24, 3, 3), True),
        ((2, 24, 127, 64), (24, 24, 3, 3), False),
        ((2, 24, 128, 64), (24, 23, 3, 3), False),
        ((2, 24, 128, 64), (24, 24, 2, 3), False),
        ((2, 24, 32, 16, 8), (24, 24, 3, 3, 3), True),
        ((1, 5, 64, 64, 64), (5, 4, 3, 3, 3), True),  # torch's im2col
        ((1, 5, 64, 64, 64), (5, 4, 4, 4, 4), False),
    ),
)
def test_where_transposed_ones_pay(shape, weight, expected, monkeypatch):
    check_where_ours_pays(transposed_pays, shape, weight, ((2,) * (len(shape) - 2),), expected, monkeypatch)


def check_where_ours_pays(pays, shape, weight, axes, expected, monkeypatch) -> None:
    x, weight = torch.empty(shape), torch.empty(weight)
    assert pays(x, weight, *axes) == expected
    with fastseg.backend("cpu"):
        assert pays(x, weight, *axes)
    for name in ("reference", "triton"):
        with fastseg.backend(name):
            assert not pays(x, weight, *axes)
    assert not pays(x.bfloat16(), weight, *axes) and not pays(x.to("meta"), weight, *axes)
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(x, weight, *axes)
    monkeypatch.setattr(beside_torch, "_WIDE", False)
    assert not pays(x, weight, *axes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("ours", "torchs", "arguments", "image"),
    (
        (DenseConv2d, torch.nn.Conv2d, (25, 27, 3, 2, 1), (9, 8)),
        (DenseConv3d, torch.nn.Conv3d, (25, 27, (1, 3, 3), (1, 2, 2), (0, 1, 1)), (3, 6, 5)),
        (DenseConvTranspose2d, torch.nn.ConvTranspose2d, (25, 27, 3, 2, 1, 1), (5, 4)),
        (DenseConvTranspose2d, torch.nn.ConvTranspose2d, (25, 27, 2, 2), (5, 4)),
        (DenseConvTranspose3d, torch.nn.ConvTranspose3d, (25, 27, 4, 2, 1), (3, 2, 4)),
    ),
)
def test_strided(ours, torchs, arguments, image, layout, monkeypatch):
    """Ours where it pays, torch's where it does not or where a size is asked for; both have the same keys."""
    torch.manual_seed(0)
    layer, peer = ours(*arguments).double(), torchs(*arguments).double()
    peer.load_state_dict(layer.state_dict())
    x = in_layout(torch.randn(2, 25, *image, dtype=torch.float64), layout).requires_grad_()
    expected = gradients(peer(x), x, *peer.parameters())
    if arguments[2:4] != (2, 2):
        assert torch.equal(layer(x), peer(x))
    monkeypatch.setattr(dense_beside_torch, "ENOUGH_STRIDED_PIXELS", 0)
    y = layer(x)
    assert y.grad_fn.name() == ("_UpConvBackward" if arguments[2:4] == (2, 2) else "_DenseConvBackward")
    assert_same(gradients(y, x, *layer.parameters()), expected)
    if isinstance(layer, torch.nn.ConvTranspose2d):
        size = [2 * n for n in image]
        assert torch.equal(layer(x, size), peer(x, size))


def test_small_volumes_that_torch_takes_to_im2col():
    torch.manual_seed(0)
    layer, x = DenseConv3d(3, 5, 3, 2, 1), torch.randn(1, 3, 4, 6, 7)
    y = layer(x)
    assert "DenseConv" in y.grad_fn.name()
    torch.testing.assert_close(y, F.conv3d(x, layer.weight, layer.bias, 2, 1))


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
    with pytest.raises(ValueError, match=r"^DenseConv2d: groups is 2, expected 1$"):
        DenseConv2d(2, 4, 3, groups=2)
    with pytest.raises(ValueError, match=r"^DenseConv3d: padding_mode is 'reflect', expected 'zeros'$"):
        DenseConv3d(2, 4, 3, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"^DenseConvTranspose2d: input has 3 channels .*, expected in_channels=2$"):
        DenseConvTranspose2d(2, 4, 3)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"^SameConv2d: input has shape \(2, 4, 4\), expected rank 4"):
        SameConv2d(2, 3)(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"^SameConv2d: input has 3 channels \(shape .*\), expected in_channels=2$"):
        SameConv2d(2, 3)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"^SameConv3d: input has shape \(1, 2, 4, 4\), expected rank 5"):
        SameConv3d(2, 3)(torch.zeros(1, 2, 4, 4))
