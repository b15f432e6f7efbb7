"""Every plain layer is its fused twin: keys, numbers and gradients."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastseg.nn
from fastseg.models import plain

Make = Callable[[Any], nn.Module]

#: name -> a layer of a module, and the shapes of its inputs; 2d and 3d.
LAYERS: dict[str, list[tuple[Make, tuple[tuple[int, ...], ...]]]] = {}


def case(name: str, make: Make, *shapes: tuple[int, ...]) -> None:
    LAYERS.setdefault(name, []).append((make, shapes))


SIZES = {2: (7, 9), 3: (4, 6, 5)}
for d, size in SIZES.items():
    x = (2, 6, *size)
    for act in ("leaky_relu", "relu", "none"):
        case(
            f"InstanceNormAct{d}d",
            lambda m, d=d, a=act: getattr(m, f"InstanceNormAct{d}d")(6, affine=True, activation=a),
            x,
        )
    case(f"InstanceNormAct{d}d", lambda m, d=d: getattr(m, f"InstanceNormAct{d}d")(6, negative_slope=0.2), x, x)
    case(f"BatchNormAct{d}d", lambda m, d=d: getattr(m, f"BatchNormAct{d}d")(6, activation="leaky_relu"), x, x)
    case(f"MultiScaleConv{d}d", lambda m, d=d: getattr(m, f"MultiScaleConv{d}d")(6, 4, (1, 3), bias=False), x)
    case(f"DepthwiseConv{d}d", lambda m, d=d: getattr(m, f"DepthwiseConv{d}d")(6, 3, padding=2, dilation=2), x)
    case(f"DepthwiseConv{d}d", lambda m, d=d: getattr(m, f"DepthwiseConv{d}d")(6, 3, 2, 1, channel_multiplier=2), x)
    case(f"PointwiseConv{d}d", lambda m, d=d: getattr(m, f"PointwiseConv{d}d")(6, 4), x)
    case(f"DepthwiseSeparableConv{d}d", lambda m, d=d: getattr(m, f"DepthwiseSeparableConv{d}d")(6, 4, 3, padding=1), x)
    case(f"MultiScaleConv{d}d", lambda m, d=d: getattr(m, f"MultiScaleConv{d}d")(6, 7), x)
    for act in ("leaky_relu", "relu", "none"):
        case(f"BatchNormAct{d}d", lambda m, d=d, a=act: getattr(m, f"BatchNormAct{d}d")(6, activation=a), x)
    case(f"BatchNormAct{d}d", lambda m, d=d: getattr(m, f"BatchNormAct{d}d")(6, affine=False), x, x)
    for kind in ("ASPP", "SeparableASPP"):
        for norm in ("batch", "instance", "none"):
            case(
                f"{kind}{d}d",
                lambda m, n=f"{kind}{d}d", norm=norm: getattr(m, n)(6, 4, (1, 2, 3), norm=norm, image_pooling=True),
                x,
            )
    for dims_of in ({"spatial_dims": d},):
        case("SoftMaskAttention", lambda m, k=dims_of: m.SoftMaskAttention(**k), x, x)
        case("SoftMaskAttention", lambda m, k=dims_of: m.SoftMaskAttention(6, **k), x, x)
        case("SoftMaskAttention", lambda m, k=dims_of: m.SoftMaskAttention(6, 1, **k), x, x)
        case("SpatialAttention", lambda m, k=dims_of: m.SpatialAttention(3, **k), x)
        case("SpatialAttention", lambda m, k=dims_of: m.SpatialAttention(3, norm=True, order="max_mean", **k), x)
        case("CBAM", lambda m, k=dims_of: m.CBAM(6, 2, 3, **k), x)
        case("CBAM", lambda m, k=dims_of: m.CBAM(6, 2, 3, variant="original", **k), x)
    case("ChannelAttention", lambda m: m.ChannelAttention(6, 2, bias=True), x)
    case("SqueezeExcitation", lambda m: m.SqueezeExcitation(6, 2), x)
case("DenseConv2d", lambda m: m.DenseConv2d(6, 4, 3, 1, 1), (2, 6, 7, 9))
case("DenseConv2d", lambda m: m.DenseConv2d(6, 4, 5, 2, 2, bias=False), (2, 6, 7, 9))
case("DenseConv3d", lambda m: m.DenseConv3d(6, 4, 3, 2, 1), (2, 6, 3, 4, 5))
case("DenseConvTranspose2d", lambda m: m.DenseConvTranspose2d(6, 4, 3, 2, 1, 1), (2, 6, 7, 9))
case("Upsample2d", lambda m: m.Upsample2d(6, 4), (2, 6, 7, 9))
case("Upsample3d", lambda m: m.Upsample3d(6, 4), (2, 6, 3, 4, 5))
case("UpsampleConcat2d", lambda m: m.UpsampleConcat2d(6, 4), (2, 6, 7, 9), (2, 3, 14, 18))
case("ContextEnhancement", lambda m: m.ContextEnhancement(6), (2, 6, 9, 11))

EVERY = [(name, *one) for name, several in LAYERS.items() for one in several]


def test_every_plain_layer_is_compared():
    own = {
        name
        for name, value in vars(plain).items()
        if inspect.isclass(value) and value.__module__ == plain.__name__ and not name.startswith("_")
    }
    assert own == set(LAYERS)
    assert own <= set(fastseg.nn.__all__)


def numbers(layer: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """The output, the gradients of inputs and parameters, and the buffers after a call."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    y = layer(*inputs)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [*inputs, *layer.parameters()], grad), *layer.buffers()]


@pytest.mark.parametrize("training", (True, False))
@pytest.mark.parametrize(("name", "make", "shapes"), EVERY, ids=[f"{i}-{name}" for i, (name, *_) in enumerate(EVERY)])
def test_agrees_with_its_twin(name: str, make: Make, shapes: tuple[tuple[int, ...], ...], training: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = make(plain).double().train(training), make(fastseg.nn).double().train(training)
    assert type(ours) is getattr(plain, name) and isinstance(ours, type(theirs))
    for t in (*ours.parameters(), *ours.buffers()):
        if t.is_floating_point():
            t.data += 0.2 * torch.rand_like(t)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    # Equal maxima have no gradient that is theirs alone: of distinct numbers.
    inputs = [torch.randn(shape).double() for shape in shapes]
    results = zip(numbers(ours, inputs), numbers(theirs, inputs), strict=True)
    for i, (a, b) in enumerate(results):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=f"result {i}")


@pytest.mark.parametrize("name", ("ChannelAttention", "SpatialAttention", "CBAM"))
def test_equal_maxima_have_one_gradient(name):
    """The first of them, as in the fused layers."""
    torch.manual_seed(0)
    arguments = {"ChannelAttention": (6, 2), "SpatialAttention": (3,), "CBAM": (6, 2, 3)}[name]
    ours, theirs = (getattr(module, name)(*arguments).double() for module in (plain, fastseg.nn))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randint(0, 2, (2, 6, 7, 9)).double()
    for a, b in zip(numbers(ours, [x]), numbers(theirs, [x]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
