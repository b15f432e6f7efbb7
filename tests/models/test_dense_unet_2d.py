"""What is particular to the 2D DenseUNet: classes, dropout, refusals."""

from __future__ import annotations

import pytest
import torch

from fastseg import models

SMALL = {"widths": (4, 6)}


def test_classes_of_brats_by_default():
    network = models.create("dense_unet_2d", **SMALL).eval()
    assert (network.in_channels, network.out_channels, network.output) == (4, 4, "softmax")
    probabilities = network.probabilities(network(torch.randn(1, 4, 4, 6)))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 4, 6))


def test_dropout_acts_in_training_alone():
    network = models.create("dense_unet_2d", **SMALL, dropout=0.5)
    x = torch.randn(2, 4, 8, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"widths": (4, 0)}, r"widths is \(4, 0\), expected at least two numbers >= 1"),
        ({"growth": (4,)}, r"growth is \(4,\), expected 2 numbers >= 1"),
        ({"dropout": -0.1}, r"dropout is -0.1, expected a share in \[0, 1\)"),
        ({"upsampling": "cubic"}, "upsampling is 'cubic', expected one of 'nearest', 'linear'"),
    ),
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create("dense_unet_2d", **{**SMALL, **arguments})
