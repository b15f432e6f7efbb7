"""The layers of the losses."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from fastseg import nn, ops

LAYERS = {
    "dice_cross_entropy": (nn.DiceCrossEntropyLoss, {"dice_weight": 0.5, "ce_weight": 2.0, "smooth": 1.0}),
    "tversky": (nn.TverskyLoss, {"fp_weight": 0.2, "fn_weight": 0.8, "smooth": 1.0, "ce_weight": 1.0}),
    "focal_tversky": (nn.FocalTverskyLoss, {"gamma": 0.5, "fp_weight": 0.2, "ce_weight": 1.0}),
    "generalized_dice": (nn.GeneralizedDiceLoss, {"batch": True, "ce_weight": 1.0}),
}


@pytest.mark.parametrize("weights", (None, "balanced", (1.0, 2.0, 3.0), torch.tensor([1.0, 2.0, 3.0])))
@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_the_function(name, weights):
    layer, options = LAYERS[name]
    options = {**options, "include_background": False, "ignore_index": 2, "class_weights": weights}
    logits, target = torch.randn(2, 3, 8, 9), torch.randint(3, (2, 8, 9))
    loss = layer(**options)
    expected = getattr(ops, name)(logits, target, **options)
    assert torch.equal(loss(logits, target), expected)
    assert not loss.state_dict() and not list(loss.parameters())
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(logits, target), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_defaults_are_those_of_the_function(name):
    layer, _ = LAYERS[name]
    logits, target = torch.randn(2, 3, 8, 9), torch.randint(3, (2, 8, 9))
    assert torch.equal(layer()(logits, target), getattr(ops, name)(logits, target))


def test_weights_go_along():
    loss = nn.DiceCrossEntropyLoss(class_weights=(1, 2, 3))
    assert loss.to("meta").class_weights.device.type == "meta"
    assert "class_weights=[1.0, 2.0, 3.0]" in repr(nn.TverskyLoss(class_weights=(1, 2, 3)))
    assert "smooth=1e-05" in repr(nn.TverskyLoss()) and "class_weights=None" in repr(nn.TverskyLoss())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dice_cross_entropy", {"smooth": 0}, "DiceCrossEntropyLoss: smooth is 0, expected a finite number > 0"),
        ("tversky", {"output": "tanh"}, "TverskyLoss: output is 'tanh', expected one of 'softmax', 'sigmoid'"),
        ("focal_tversky", {"gamma": -1}, "FocalTverskyLoss: gamma is -1, expected a finite number > 0"),
        ("generalized_dice", {"class_weights": "even"}, "GeneralizedDiceLoss: class_weights is 'even'"),
    ],
)
def test_refused_when_made(name, options, message):
    with pytest.raises(ValueError, match=message):
        LAYERS[name][0](**options)
