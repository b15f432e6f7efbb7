"""MSFEN: the fused network against the same one in plain torch, its parts, its size, what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastseg
from fastseg import models
from fastseg.models.modality_attention import ModalityAttention
from fastseg.models.pyramid_bottleneck import PyramidBottleneck

# (2 spatial dimensions, an image) and (3, a volume); neither bottom (6x8, 2x3x4) is a multiple of the pool sizes.
SIZES = {2: (24, 32), 3: (8, 12, 16)}


def small(**kwargs) -> models.SegmentationNetwork:
    return models.create("msfen", **{"widths": (8, 12, 20), "bottleneck_channels": 12, "reduction": 1, **kwargs})


def pair(**kwargs) -> tuple[models.SegmentationNetwork, models.SegmentationNetwork]:
    """The fused and the plain network in float64, with the same weights, none of which is zero."""
    torch.manual_seed(0)
    fused = small(**kwargs)
    with fastseg.backend("reference"):
        stock = small(**{**kwargs, "channels_last": False})
    for parameter in fused.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    stock.load_state_dict(fused.state_dict())
    return fused.double(), stock.double()


def image(spatial_dims: int, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, *SIZES[spatial_dims], generator=generator, dtype=dtype)


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("norm", ("instance", "batch"))
@pytest.mark.parametrize("spatial_dims", (2, 3))
def test_fused_is_plain(spatial_dims, norm, channels_last):
    fused, stock = pair(spatial_dims=spatial_dims, norm=norm, channels_last=channels_last, dropout=0.0)
    x = image(spatial_dims)
    actual, expected = fused(x), stock(x)
    assert actual.shape == (2, 4, *SIZES[spatial_dims])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(expected)
    actual.backward(grad)
    expected.backward(grad)
    for (name, ours), theirs in zip(fused.named_parameters(), stock.parameters(), strict=True):
        scale = float(theirs.grad.abs().max())
        assert scale > 0, f"{name} has no gradient"
        assert float((ours.grad - theirs.grad).abs().max()) <= 1e-9 * scale, name


@pytest.mark.parametrize("norm", ("instance", "batch"))
def test_eval_is_plain_and_keeps_the_layout(norm):
    fused, stock = pair(norm=norm)
    x = image(2)
    fused(x)  # running statistics other than at the start
    stock.load_state_dict(fused.state_dict())
    with torch.no_grad():
        actual, expected = fused.eval()(x), stock.eval()(x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("spatial_dims", (2, 3))
def test_bf16_autocast_trains(spatial_dims):
    torch.manual_seed(0)
    network = small(spatial_dims=spatial_dims, dropout=0.0)
    x = image(spatial_dims, dtype=torch.float32)
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(x)
    assert logits.dtype == torch.bfloat16
    # bfloat16 has 8 bits; the errors of some thirty layers one after the other.
    assert ((logits - exact).norm() / exact.norm()).item() < 0.1
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_compiles_whole():
    fused, _ = pair(dropout=0.0, widths=(8, 12))
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    x = image(2)
    actual, expected = compiled(x), fused(x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    actual.square().mean().backward()
    assert fused.fusion.stem.weight.grad.abs().max() > 0


def test_has_at_least_30_percent_fewer_parameters_than_unet():
    def count(name: str) -> int:
        with torch.device("meta"):
            network = models.create(name, in_channels=4, out_channels=4, channels_last=False)
        return sum(parameter.numel() for parameter in network.parameters())

    assert count("msfen") <= 0.7 * count("unet")


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
    x = image(2, dtype=torch.float32)
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


def test_refuses_images():
    network = small()
    with pytest.raises(ValueError, match="msfen: x has 3 channels"):
        network(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"spatial sizes \(18, 16\), expected multiples of 4"):
        network(torch.randn(1, 4, 18, 16))
    with pytest.raises(ValueError, match=r"spatial sizes \(4, 4\), expected larger ones"):
        network(torch.randn(2, 4, 4, 4))
    batch = small(norm="batch")
    with pytest.raises(ValueError, match="expected larger ones"):
        batch(torch.randn(1, 4, 4, 4))
    assert batch(torch.randn(2, 4, 4, 4)).shape == batch.eval()(torch.randn(2, 4, 4, 4)).shape == (2, 4, 4, 4)
