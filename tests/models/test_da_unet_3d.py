"""What is particular to the 3D-DA-UNet: convolutions as two halves, dropout folded into the norm, refusals."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import fastseg
from fastseg import models
from fastseg.models.conv_norm_act_3d import NormActDropout3d
from tests.models.cases import build, outcome

SMALL = {"widths": (4, 6, 8)}


@pytest.mark.parametrize("batch", (1, 2))
@pytest.mark.parametrize("with_residual", (False, True))
def test_folded_dropout_is_dropout(batch, with_residual):
    """The same random numbers drop the same channels, folded into the norm or not."""
    results = []
    x, residual = torch.randn(2, batch, 12, 3, 4, 5, dtype=torch.float64)
    for plain in (False, True):
        with fastseg.backend("reference") if plain else nullcontext():
            layer = NormActDropout3d(12, dropout=0.4).double()
        torch.manual_seed(1)
        torch.nn.init.normal_(layer.norm.weight)
        torch.nn.init.normal_(layer.norm.bias)
        inputs = [x.clone().requires_grad_(), *([residual.clone().requires_grad_()] if with_residual else [])]
        torch.manual_seed(2)
        y = layer(*inputs)
        y.square().sum().backward()
        results.append([y, *(i.grad for i in inputs), layer.norm.weight.grad, layer.norm.bias.grad])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    if not with_residual:
        kept = (results[0][0].flatten(2) != 0).any(2)
        assert 0 < kept.sum() < kept.numel()


def test_a_training_step_with_dropout_is_that_of_plain_torch():
    x = torch.randn(1, 4, 8, 16, 12, dtype=torch.float64)
    results = []
    for plain in (False, True):
        network = build("da_unet_3d", plain=plain, **SMALL, dropout=0.3).double()
        torch.manual_seed(3)
        results.append(outcome(network, x))
        without = network.eval()(x)
        assert torch.equal(without, network(x)) and not torch.allclose(without, results[-1]["logits"])
    for key, expected in results[1].items():
        torch.testing.assert_close(results[0][key], expected, rtol=1e-7, atol=1e-9, msg=key)


def test_a_training_step_compiles_without_a_graph_break():
    x = torch.randn(1, 4, 8, 16, 12)
    network = build("da_unet_3d", **SMALL, dropout=0.0)
    expected = outcome(network, x)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    actual = {key.removeprefix("_orig_mod."): value for key, value in outcome(compiled, x).items()}
    for key, value in expected.items():
        error = float((actual[key] - value).norm() / value.norm())
        assert error < 1e-3, f"{key}: {error:.1e}"


def test_regions_by_default_and_a_background_by_argument():
    network = models.create("da_unet_3d", **SMALL)
    assert (network.in_channels, network.out_channels, network.output, network.size_divisor) == (4, 3, "sigmoid", 4)
    assert models.create("da_unet_3d").size_divisor == 8
    assert models.create("da_unet_3d", out_channels=4, **SMALL)(torch.randn(1, 4, 8, 8, 8)).shape == (1, 4, 8, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"widths": (4,)}, r"widths is \(4,\), expected at least two numbers >= 1"),
        ({"growth": (4, 4, 4)}, r"growth is \(4, 4, 4\), expected 2 numbers >= 1"),
        ({"dropout": 1.0}, r"dropout is 1.0, expected a share in \[0, 1\)"),
        ({"localization_convs": 0}, "localization_convs is 0, expected a number >= 1"),
        ({"fusion_channels": 0}, "fusion_channels is 0, expected a number >= 1"),
        ({"upsampling": "cubic"}, "upsampling is 'cubic', expected one of 'nearest', 'linear'"),
        ({"output": "tanh"}, "output is 'tanh', expected one of 'softmax', 'sigmoid'"),
        ({"negative_slope": -1.0}, "negative_slope is -1.0"),
    ),
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create("da_unet_3d", **{**SMALL, **arguments})


def test_one_voxel_at_the_bottom_is_refused():
    network = models.create("da_unet_3d", **SMALL)
    with pytest.raises(ValueError, match=r"sizes \(4, 4, 4\), expected more than 4 in one of them"):
        network(torch.zeros(1, 4, 4, 4, 4))
