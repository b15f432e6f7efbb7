"""MSFEN: the fused network against the same one in plain torch, its parts, its size, what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastseg import models
from fastseg.models.modality_attention import ModalityAttention
from fastseg.models.pyramid_bottleneck import PyramidBottleneck
from tests.models.cases import assert_as_close, build, count, full_size, outcome


def small(**kwargs) -> models.SegmentationNetwork:
    return models.create("msfen", **{"widths": (8, 12, 20), "bottleneck_channels": 12, "reduction": 1, **kwargs})


# In two dimensions the network is a case of test_networks.py. The bottom, 3x3x4 of 12x12x16, is no multiple of the pool
# sizes. It is not flatter: of two slices torch 2.13's Conv3d in bfloat16 leaves gradients of weights unwritten.
VOLUME = {"spatial_dims": 3, "widths": (6, 8, 10), "bottleneck_channels": 8, "reduction": 1, "dropout": 0.0}


def volume(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 4, 12, 12, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize(("norm", "channels_last"), (("instance", False), ("instance", True), ("batch", True)))
def test_volumes_are_as_plain(norm, channels_last):
    fused = build("msfen", channels_last=channels_last, norm=norm, **VOLUME).double()
    plain = build("msfen", plain=True, channels_last=False, norm=norm, **VOLUME).double()
    x = volume(torch.float64)
    expected, actual = outcome(plain, x), outcome(fused, x)
    assert actual["logits"].shape == (2, 4, 12, 12, 16)
    largest = max(float(t.norm()) for t in expected.values())
    for key, t in expected.items():
        assert float((actual[key] - t).norm()) <= 1e-9 * float(t.norm()) + 1e-14 * largest, key


def test_volumes_by_autocast():
    plain = build("msfen", plain=True, channels_last=False, **VOLUME).eval()
    x = volume(torch.float32)
    peer = outcome(plain, x, autocast=True)
    exact = outcome(plain.double(), x.double())
    actual = outcome(build("msfen", **VOLUME).eval(), x, autocast=True)
    assert actual["logits"].dtype == torch.bfloat16
    assert_as_close(actual, peer, exact, eps=2.0**-8)


def test_takes_the_layout_of_its_input():
    for channels_last in (False, True):
        network = small(channels_last=channels_last).eval()
        with torch.no_grad():
            logits = network(torch.randn(2, 4, 16, 24))
        assert logits.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_has_at_least_30_percent_fewer_parameters_than_unet():
    like = {"in_channels": 4, "out_channels": 4}
    assert count(full_size("msfen", **like)) <= 0.7 * count(full_size("unet", **like))


def test_modality_weights_are_a_softmax_over_the_others():
    torch.manual_seed(0)
    attention = ModalityAttention(3, 5, 2, 4, own_key=False).double()
    features = torch.randn(2, 15, 6, 7, dtype=torch.float64)
    weights = attention.weights(features)
    expected = torch.zeros(2, 3, 6, 7, dtype=torch.float64)
    queries_keys = attention.query_key(features).unflatten(1, (3, 2, 4))
    for asking in range(3):
        others = [other for other in range(3) if other != asking]
        scores = [(queries_keys[:, asking, 0] * queries_keys[:, other, 1]).sum(1) / 2 for other in others]
        for other, share in zip(others, torch.softmax(torch.stack(scores), 0), strict=True):
            expected[:, other] += share
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        attention(features), (features.unflatten(1, (3, 5)) * expected.unsqueeze(2)).flatten(1, 2)
    )


@pytest.mark.parametrize(("modalities", "own_key", "attends"), ((1, True, False), (2, False, False), (2, True, True)))
def test_one_key_needs_no_attention(modalities, own_key, attends):
    network = small(in_channels=modalities, own_key=own_key)
    assert isinstance(network.fusion.attention, ModalityAttention) == attends
    assert network(torch.randn(1, modalities, 16, 16)).shape == (1, 4, 16, 16)


@pytest.mark.parametrize("size", ((1, 1), (2, 5), (7, 13)))
def test_pyramid_takes_any_size(size):
    bottleneck = PyramidBottleneck(6, 8, 2, (1, 2, 3, 6), "batch", 0.0)
    assert bottleneck(torch.randn(2, 6, *size)).shape == (2, 8, *size)


def test_dropout_is_the_bottlenecks():
    torch.manual_seed(0)
    network = small(dropout=0.5)
    x = torch.randn(2, 4, 16, 24)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    (
        ("widths", (8,), r"widths is \(8,\), expected at least two"),
        ("kernel_sizes", (3, 4), r"kernel_sizes is \(3, 4\), expected odd"),
        ("blocks_per_level", 0, "blocks_per_level is 0, expected a number >= 1"),
        ("pool_sizes", (1, 0), r"pool_sizes\[1\] is 0, expected a number >= 1"),
        ("pool_sizes", (), "pool_sizes is 0, expected a number >= 1"),
        ("norm", "group", "norm is 'group'"),
        ("output", "tanh", "output is 'tanh'"),
        ("spatial_dims", 4, "spatial_dims is 4, expected 2 or 3"),
        ("attention_kernel", 4, "kernel_size is 4, expected an odd number"),
    ),
)
def test_refuses_arguments(argument, value, message):
    with pytest.raises(ValueError, match=message):
        small(**{argument: value})


def test_refuses_images_of_one_pixel_at_the_bottom():
    network = small(norm="instance")
    with pytest.raises(ValueError, match=r"spatial sizes \(4, 4\), expected larger ones"):
        network(torch.randn(2, 4, 4, 4))
    batch = small()
    with pytest.raises(ValueError, match="expected larger ones"):
        batch(torch.randn(1, 4, 4, 4))
    assert batch(torch.randn(2, 4, 4, 4)).shape == batch.eval()(torch.randn(2, 4, 4, 4)).shape == (2, 4, 4, 4)
