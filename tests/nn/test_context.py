"""ASPP and context enhancement layers: the same numbers as their parts run one by one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastseg
from fastseg.nn import ASPP2d, ASPP3d, ContextEnhancement, SeparableASPP2d, SeparableASPP3d

LAYERS = (ASPP2d, ASPP3d, SeparableASPP2d, SeparableASPP3d)


def activated(layer: nn.Module, x: Tensor) -> Tensor:
    if layer.activation == "none":
        return x
    return F.relu(x) if layer.activation == "relu" else F.leaky_relu(x, layer.negative_slope)


def one_by_one(layer: nn.Module, x: Tensor) -> Tensor:
    """Every part of an ASPP layer by itself, with the pooled branch as an image."""
    branches = [activated(layer, norm(conv(x))) for conv, norm in zip(layer.convs, layer.norms, strict=True)]
    if layer.pooling is not None:
        pooled = activated(layer, layer.pooling(x.mean(tuple(range(2, x.ndim)), keepdim=True)))
        branches.append(pooled.expand(*pooled.shape[:2], *x.shape[2:]))
    return activated(layer, layer.fuse_norm(layer.fuse(torch.cat(branches, 1))))


def image_of(layer_type: type[nn.Module]) -> tuple[int, ...]:
    return (7, 9) if layer_type in (ASPP2d, SeparableASPP2d) else (4, 6, 5)


def gradients(y: Tensor, layer: nn.Module, x: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return list(torch.autograd.grad(y, [x, *layer.parameters()], grad))


def randomize_statistics(layer: nn.Module) -> None:
    for buffer in layer.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    for name, parameter in layer.named_parameters():
        if "norm" in name or parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("norm", ("batch", "instance", "none"))
@pytest.mark.parametrize("image_pooling", (False, True))
@pytest.mark.parametrize("layer_type", LAYERS)
@pytest.mark.parametrize("small", (False, True), ids=("large", "small"))
def test_is_what_its_parts_give(layer_type, image_pooling, norm, training, small):
    """Also on images of fewer pixels than a filter has weights, where norms are not folded."""
    torch.manual_seed(0)
    layer = layer_type(
        5, 6, (1, 2, 3), kernel_sizes=(1, 3, 3), image_pooling=image_pooling, norm=norm, activation="leaky_relu"
    ).double()
    randomize_statistics(layer)
    layer.train(training)
    parts = copy.deepcopy(layer)
    image = [2] * len(image_of(layer_type)) if small else image_of(layer_type)
    x = torch.randn(3 - small, 5, *image, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x), one_by_one(parts, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, layer, x), gradients(expected, parts, x))
    for (name, buffer), other in zip(layer.named_buffers(), parts.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


def different_momentum(layer: nn.Module) -> None:
    layer.norms[1].momentum = 0.5


def cumulative(layer: nn.Module) -> None:
    for norm in layer.norms:
        norm.momentum = None


def one_frozen(layer: nn.Module) -> None:
    layer.norms[0].eval()


def one_without_parameters(layer: nn.Module) -> None:
    layer.norms[2] = nn.BatchNorm2d(6, affine=False).double()


def without_statistics(layer: nn.Module) -> None:
    for i in range(3):
        layer.norms[i] = nn.BatchNorm2d(6, track_running_stats=False).double()


@pytest.mark.parametrize(
    "change", (different_momentum, cumulative, one_frozen, one_without_parameters, without_statistics)
)
@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize("image", ((6, 5), (3, 2)), ids=str)
def test_norms_that_differ(change, image, training):
    torch.manual_seed(0)
    layer = ASPP2d(4, 6, (1, 2, 4)).double().train(training)
    change(layer)
    parts = copy.deepcopy(layer)
    x = torch.randn(2, 4, *image, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        y, expected = layer(x), one_by_one(parts, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, layer, x), gradients(expected, parts, x))
    for (name, buffer), other in zip(layer.named_buffers(), parts.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


@pytest.mark.parametrize("dilations", ((1, 2, 4, 8), (3,)))
def test_context_enhancement(dilations):
    torch.manual_seed(0)
    layer = ContextEnhancement(6, dilations).double()
    x = torch.randn(2, 6, 12, 11, dtype=torch.float64, requires_grad=True)
    y, stage, outputs = layer(x), layer.conv(x), []
    for (depthwise, pointwise), d in zip(layer.stages, dilations, strict=True):
        stage = F.conv2d(stage, depthwise.weight, padding=d, dilation=d, groups=6)
        stage = F.conv2d(stage, pointwise.weight, pointwise.bias)
        outputs.append(stage)
    expected = F.relu(F.conv2d(torch.cat(outputs, 1), layer.fuse.weight, layer.fuse.bias)) + x
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, layer, x), gradients(expected, layer, x))


@pytest.mark.parametrize("layer", (SeparableASPP2d(4, 6, image_pooling=True, dropout=0.5), ContextEnhancement(4)))
@pytest.mark.parametrize("training", (True, False))
def test_compiles_and_travels(layer, training):
    torch._dynamo.reset()
    layer.train(training)
    x = torch.randn(2, 4, 8, 9)
    other = pickle.loads(pickle.dumps(layer))
    torch.manual_seed(3)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.manual_seed(3)
    torch.testing.assert_close(y, other(x))
    with fastseg.backend("reference"):
        torch.manual_seed(3)
        torch.testing.assert_close(copy.deepcopy(other)(x), y) if not training else other(x)


def test_autocast_and_channels_last():
    layer = ASPP2d(4, 6, image_pooling=True).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 8, 9).to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer.eval()(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "arguments,message",
    (
        ({"norm": "layer"}, "ASPP2d: norm is 'layer', expected one of 'batch', 'instance', 'none'"),
        ({"activation": "gelu"}, "ASPP2d: activation is 'gelu'"),
        ({"kernel_sizes": (3, 3)}, r"ASPP2d: kernel_sizes is \(3, 3\), expected an odd number for each"),
        ({"kernel_sizes": (3, 3, 2, 3)}, "expected an odd number"),
        ({"dilations": ()}, "expected an odd number for each of dilations"),
    ),
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ASPP2d(3, 4, **arguments)


def test_errors_of_context_enhancement():
    with pytest.raises(ValueError, match=r"ContextEnhancement: dilations is .* kernel_size 4, expected"):
        ContextEnhancement(4, kernel_size=4)
