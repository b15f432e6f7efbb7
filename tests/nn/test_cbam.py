"""Layers of channel and spatial attention: keys of public code, batch norm, arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastseg.nn as fnn
from fastseg import ops
from tests.accelerate.test_attention import CBAM as PublicCBAM


def filled(keys: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in keys.items()}


def test_keys_of_the_authors_code():
    public = PublicCBAM(8, 4).eval()
    public.SpatialGate.spatial.bn.running_var.fill_(2.0)
    ours = fnn.CBAM(8, 4, variant="original").eval()
    ours.load_state_dict(public.state_dict(), strict=True)
    x = torch.randn(2, 8, 9, 10)
    torch.testing.assert_close(ours(x), public(x))


@pytest.mark.parametrize("names", (("fc1", "fc2"), ("fc.0", "fc.2")))
def test_keys_of_code_with_convolutions(names):
    keys = {
        f"ca.{names[0]}.weight": (2, 8, 1, 1),
        f"ca.{names[1]}.weight": (8, 2, 1, 1),
        "sa.conv1.weight": (1, 2, 7, 7),
    }
    state = filled(keys)
    ours = nn.Sequential(fnn.CBAM(8, 4))
    before = {f"0.{key}": t for key, t in state.items()}
    ours.load_state_dict(before, strict=True)
    assert list(before) == [f"0.{key}" for key in state], "the caller's dictionary is left alone"
    x = torch.randn(1, 8, 9, 10)
    torch.testing.assert_close(ours(x), ops.cbam(x, *state.values()))
    assert list(ours.state_dict()) == ["0.channel.fc1.weight", "0.channel.fc2.weight", "0.spatial.conv.weight"]


def test_own_keys_load():
    ours, other = (fnn.CBAM(8, 4, 3, 3, "original") for _ in range(2))
    other.load_state_dict(ours.state_dict(), strict=True)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({"channel.fc1.weight": ours.channel.fc1.weight})


def test_keys_of_smps_layer():
    keys = ["cSE.1.weight", "cSE.1.bias", "cSE.3.weight", "cSE.3.bias", "sSE.0.weight", "sSE.0.bias"]
    assert list(fnn.SCSE(8, 4).state_dict()) == keys


@pytest.mark.parametrize("spatial_dims", (2, 3))
def test_layers_are_the_ops(spatial_dims):
    x = torch.randn(2, 8, *(6, 7, 5)[:spatial_dims])
    channel, spatial = fnn.ChannelAttention(8, 2, bias=True), fnn.SpatialAttention(3, spatial_dims)
    both = fnn.CBAM(8, 2, 3, spatial_dims, bias=True)
    both.channel.load_state_dict(channel.state_dict())
    both.spatial.load_state_dict(spatial.state_dict())
    torch.testing.assert_close(both(x), spatial(channel(x)))
    squeeze = fnn.SqueezeExcitation(8, 2)
    gate = torch.sigmoid(squeeze.fc2(squeeze.fc1(x.flatten(2).mean(2)).relu()))
    torch.testing.assert_close(squeeze(x), x * gate.view(2, 8, *[1] * spatial_dims))
    scse = fnn.SCSE(8, 2, spatial_dims)
    torch.testing.assert_close(scse(x), x * scse.cSE(x) + x * scse.sSE(x))


def test_batch_norm_counts_and_its_statistics():
    x = torch.randn(2, 8, 9, 10)
    for momentum in (0.3, None):
        ours, public = fnn.CBAM(8, 4, variant="original"), PublicCBAM(8, 4)
        ours.load_state_dict(public.state_dict())
        ours.spatial.norm.momentum = public.SpatialGate.spatial.bn.momentum = momentum
        for _ in range(3):
            torch.testing.assert_close(ours(x), public(x))
        for a, b in zip(ours.buffers(), public.buffers(), strict=True):
            torch.testing.assert_close(a, b)


def test_compile_without_break():
    torch._dynamo.reset()
    for layer in (fnn.CBAM(8, 4), fnn.CBAM(8, 4, variant="original"), fnn.SCSE(8, 4), fnn.SqueezeExcitation(8, 4)):
        x = torch.randn(1, 8, 9, 10)
        compiled = torch.compile(layer.eval(), fullgraph=True)
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize(
    "make,message",
    (
        (lambda: fnn.CBAM(8, 16), "ChannelAttention: ratio is 16, expected 1 to 8"),
        (lambda: fnn.CBAM(8, 2, 4), "SpatialAttention: kernel_size is 4, expected an odd number"),
        (lambda: fnn.CBAM(8, 2, spatial_dims=1), "SpatialAttention: spatial_dims is 1, expected 2 or 3"),
        (lambda: fnn.CBAM(8, 2, variant="paper"), "CBAM: variant is 'paper', expected one of 'plain', 'original'"),
        (lambda: fnn.CBAM(8, 2, order="max"), "order is 'max', expected one of 'mean_max', 'max_mean'"),
        (lambda: fnn.SCSE(8, 2, 4), "SCSE: spatial_dims is 4, expected 2 or 3"),
        (lambda: fnn.CBAM(8, 2)(torch.randn(8, 5, 6)), r"CBAM: input has shape \(8, 5, 6\), expected rank 4"),
        (lambda: fnn.CBAM(8, 2)(torch.randn(1, 9, 5, 6)), r"fc1_weight has shape \(4, 8\), expected \(H, 9\)"),
    ),
    ids=range(8),
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
