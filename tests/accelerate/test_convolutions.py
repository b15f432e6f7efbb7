"""torch's depthwise convolutions and SMP's separable ones inside other people's models."""

from __future__ import annotations

import copy
import sys
import types

import pytest
import torch
from torch import nn

import fastseg
from tests.accelerate.conftest import CheckNetwork


@pytest.mark.parametrize(
    "conv",
    (
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 8, 5, padding="same", groups=4, padding_mode="replicate"),
        nn.Conv3d(4, 4, 3, stride=2, groups=4, bias=False),
        nn.ConvTranspose2d(4, 4, 3, 2, 1, groups=4),
        nn.ConvTranspose3d(4, 4, 2, 2, groups=4),
    ),
    ids=str,
)
def test_depthwise_convolutions_are_swapped(conv, check_network: CheckNetwork):
    image = (9, 10) if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) else (6, 7, 8)
    found = str(check_network(nn.Sequential(conv, nn.Sigmoid()), torch.randn(2, 4, *image)))
    assert f"{type(conv).__name__}: Depthwise{type(conv).__name__}" in found


class OwnConv(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    "conv,why",
    (
        (nn.ConvTranspose2d(4, 8, 3, groups=4), "a channel multiplier has no kernel"),
        (OwnConv(4, 4, 3, groups=4), "OwnConv may compute something else"),
    ),
    ids=str,
)
def test_what_is_left_and_why(conv, why):
    model = fastseg.accelerate(nn.Sequential(conv))
    assert type(model[0]) is type(conv)
    assert why in str(fastseg.report(model))


@pytest.mark.parametrize(
    "conv",
    (
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        OwnConv(4, 4, 3, padding=1),
        nn.Conv1d(4, 4, 3, padding=1),
        nn.ConvTranspose2d(4, 4, 2, 2, groups=2),
        nn.ConvTranspose1d(4, 4, 2, 2),
    ),
    ids=str,
)
def test_other_convolutions_are_none_of_ours(conv):
    cls = type(conv)
    assert type(fastseg.accelerate(nn.Sequential(conv))[0]) is cls


@pytest.mark.parametrize(
    "conv",
    (
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(3, 5, (1, 5), padding="same", bias=False),
        nn.Conv2d(3, 5, 1),
        nn.Conv2d(6, 4, 3, padding=2, dilation=2),
        nn.Conv3d(3, 5, 3, padding=1),
        nn.Conv3d(3, 5, (1, 3, 3), padding=(0, 1, 1)),
        nn.Conv3d(3, 5, 1),
        nn.Conv2d(3, 5, 3),
        nn.Conv2d(3, 5, 1, padding=1),
        nn.Conv2d(3, 5, 3, 2, padding=1),
        nn.Conv2d(3, 5, 7, 2, padding=3, bias=False),
        nn.Conv2d(3, 5, 1, 2),
        nn.Conv3d(3, 5, 3, 2, padding=1),
        nn.Conv3d(3, 5, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
    ),
    ids=str,
)
def test_dense_convolutions_are_swapped(conv, check_network: CheckNetwork):
    image = (9, 10) if isinstance(conv, nn.Conv2d) else (6, 7, 8)
    found = str(check_network(nn.Sequential(conv, nn.Sigmoid()), torch.randn(2, conv.in_channels, *image)))
    assert f"{type(conv).__name__}: Swapped{type(conv).__name__}" in found


@pytest.mark.parametrize(
    "conv",
    (
        nn.ConvTranspose2d(3, 5, 2, 2),
        nn.ConvTranspose2d(3, 5, (4, 2), (4, 2), bias=False),
        nn.ConvTranspose3d(3, 5, 2, 2),
        nn.ConvTranspose3d(3, 5, (1, 2, 2), (1, 2, 2)),
        nn.ConvTranspose2d(3, 5, 3, padding=1),
        nn.ConvTranspose2d(3, 5, 3, 2, padding=1, output_padding=1),
        nn.ConvTranspose2d(3, 5, 2, 2, dilation=2),
        nn.ConvTranspose3d(3, 5, 4, 2, padding=1, bias=False),
    ),
    ids=str,
)
def test_transposed_convolutions_are_swapped(conv, check_network: CheckNetwork):
    image = (9, 10) if isinstance(conv, nn.ConvTranspose2d) else (3, 7, 8)
    found = str(check_network(nn.Sequential(conv, nn.Sigmoid()), torch.randn(2, conv.in_channels, *image)))
    assert f"{type(conv).__name__}: Swapped{type(conv).__name__}" in found


def test_up_convolutions_elsewhere_are_torchs():
    """The same bits in 16 bit, in autocast, of what is no batch, of a wanted size; the same errors."""
    conv = nn.ConvTranspose2d(3, 5, 2, 2)
    swapped = fastseg.accelerate(nn.Sequential(copy.deepcopy(conv)))[0]
    x = torch.randn(2, 3, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(swapped(x), conv(x))
    assert torch.equal(swapped(x[0]), conv(x[0]))
    assert torch.equal(swapped(x, [13, 14]), conv(x, [13, 14]))
    assert torch.equal(swapped.bfloat16()(x.bfloat16()), conv.bfloat16()(x.bfloat16()))
    conv, swapped = conv.float(), swapped.float()
    with fastseg.backend("reference"):
        assert torch.equal(swapped(x), conv(x))
    assert torch.equal(torch.export.export(swapped, (x,)).module()(x), conv(x))
    assert "UpConv" in swapped(x).grad_fn.name()
    for module in (conv, swapped):
        for wrong in (torch.randn(2, 4, 6, 7), x.double(), x.long()):
            with pytest.raises(RuntimeError):
                module(wrong)


@pytest.mark.parametrize(
    "conv",
    (nn.Conv2d(3, 5, 3, 2, padding=1), nn.ConvTranspose2d(3, 5, 3, 2, padding=1, output_padding=1)),
    ids=str,
)
def test_strided_convolutions_run_ours_where_it_pays(conv, small_convolutions_run_ours):
    """And torch's, with the same bits, in 16 bit, for a wanted size, and in an exported program."""
    swapped = fastseg.accelerate(nn.Sequential(copy.deepcopy(conv)))[0]
    x = torch.randn(2, 3, 6, 8)
    assert "DenseConv" in swapped(x).grad_fn.name()
    last = swapped(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.export.export(swapped, (x,)).module()(x), conv(x))
    if isinstance(conv, nn.ConvTranspose2d):
        assert torch.equal(swapped(x, [11, 15]), conv(x, [11, 15]))
    assert torch.equal(swapped.bfloat16()(x.bfloat16()), conv.bfloat16()(x.bfloat16()))


@pytest.mark.parametrize("conv", (nn.Conv2d(3, 5, 3, padding=1), nn.ConvTranspose2d(3, 5, 2, 2)), ids=str)
def test_complex_convolutions_are_torchs(conv, small_convolutions_run_ours):
    conv = conv.to(torch.complex64)
    swapped = fastseg.accelerate(nn.Sequential(copy.deepcopy(conv)))[0]
    x = torch.randn(2, 3, 6, 7, dtype=torch.complex64)
    assert type(swapped) is not type(conv) and torch.equal(swapped(x), conv(x))


@pytest.mark.parametrize("size", ((16, 16), (5, 5)))
def test_up_convolutions_of_many_channels(size):
    """Contiguous ones are torch's, channels-last ones ours; the output is channels-last where the weight is."""
    conv = nn.ConvTranspose2d(320, 256, 2, 2)
    swapped = fastseg.accelerate(nn.Sequential(copy.deepcopy(conv)))[0]
    x = torch.randn(1, 320, *size)
    assert torch.equal(swapped(x), conv(x))
    last = x.contiguous(memory_format=torch.channels_last)
    assert "UpConv" in swapped(last).grad_fn.name()
    for module in (conv, swapped):
        y = module.to(memory_format=torch.channels_last)(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
    assert "UpConv" in y.grad_fn.name()
    torch.testing.assert_close(y, conv(x), rtol=1e-5, atol=1e-4)


def test_dense_convolutions_elsewhere_are_torchs(small_convolutions_run_ours):
    """The same bits in 16 bit, in autocast, of what is no batch, and for an exported program; the same errors."""
    conv = nn.Conv2d(3, 5, 3, padding=1)
    swapped = fastseg.accelerate(nn.Sequential(copy.deepcopy(conv)))[0]
    x = torch.randn(2, 3, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(swapped(x), conv(x))
    assert torch.equal(swapped(x[0]), conv(x[0]))
    assert torch.equal(swapped.bfloat16()(x.bfloat16()), conv.bfloat16()(x.bfloat16()))
    conv, swapped = conv.float(), swapped.float()
    with fastseg.backend("triton"):
        assert torch.equal(swapped(x), conv(x))
    assert torch.equal(torch.export.export(swapped, (x,)).module()(x), conv(x))
    assert "DenseConv" in swapped(x).grad_fn.name()
    assert swapped.to("meta")(x.to("meta")).shape == (2, 5, 6, 7)
    for module in (conv.to("cpu"), swapped):
        with pytest.raises(RuntimeError):
            module(torch.randn(2, 4, 6, 7))
    swapped = swapped.to_empty(device="cpu")
    for wrong in (x.double(), x.long()):
        with pytest.raises(RuntimeError):
            swapped(wrong)


class SeparableConv2d(nn.Sequential):
    """As segmentation_models_pytorch.decoders.deeplabv3.decoder has it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int, dilation: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, padding=padding, dilation=dilation, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )


def test_smp_separable_convolution(monkeypatch, check_network: CheckNetwork):
    """SMP needs torchvision's operators, which this torch build may not have: a class of its name and structure."""
    name = "segmentation_models_pytorch.decoders.deeplabv3.decoder"
    module = types.ModuleType(name)
    module.SeparableConv2d = SeparableConv2d
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(SeparableConv2d, "__module__", name)
    model = nn.Sequential(SeparableConv2d(6, 8, 3, 12, 12), nn.BatchNorm2d(8), nn.ReLU())
    found = str(check_network(model, torch.randn(2, 6, 20, 21)))
    assert "DepthwiseConv2d" in found and "PointwiseConv2d" in found


def of_its_own(conv: nn.Conv2d) -> None:
    """What asymmetric padding is often made of."""

    def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return 2 * nn.functional.conv2d(x, weight, bias, groups=conv.groups)

    conv._conv_forward = convolve  # type: ignore[method-assign]


def around(conv: nn.Conv2d) -> None:
    conv.padding_mode = "circular"


def of_integers(conv: nn.Conv2d) -> None:
    """As encoders are dilated."""
    conv.stride, conv.padding, conv.dilation = 1, 2, 2  # type: ignore[assignment]


@pytest.mark.parametrize("before", (True, False))
@pytest.mark.parametrize("change", (of_its_own, around, of_integers))
@pytest.mark.parametrize(
    "conv",
    (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)),
    ids=("dense", "depthwise", "1x1"),
)
def test_convolutions_that_somebody_changes(conv, change, before, small_convolutions_run_ours):
    """Before or after they are swapped."""
    stock = copy.deepcopy(conv)
    change(stock)
    swapped = nn.Sequential(copy.deepcopy(conv))
    for step in (change, lambda _: fastseg.accelerate(swapped))[:: 1 if before else -1]:
        step(swapped[0])
    x = torch.randn(2, 4, 8, 9)
    torch.testing.assert_close(swapped(x), stock(x), rtol=1e-5, atol=1e-5)
