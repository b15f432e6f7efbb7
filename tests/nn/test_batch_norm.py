"""Batch-norm layers with their activation: torch's layers in every respect but the activation and the residual."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

import fastseg
from fastseg.models import plain
from fastseg.nn import BatchNormAct2d, BatchNormAct3d, batch_norm

SHAPES = {2: (3, 5, 6, 7), 3: (2, 5, 4, 3, 6)}
OURS = {2: BatchNormAct2d, 3: BatchNormAct3d}
PLAIN = {2: plain.BatchNormAct2d, 3: plain.BatchNormAct3d}
TORCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
RANKS = pytest.mark.parametrize("rank", (2, 3))
#: Of torch's layer.
ARGUMENTS = (
    {},
    {"momentum": None},
    {"momentum": 0.3, "eps": 1e-3, "affine": False},
    {"track_running_stats": False},
)


@pytest.fixture(params=("kernel", "torch's ops"), autouse=True)
def path(request, monkeypatch):
    """What small inputs run; by themselves torch's ops."""
    if request.param == "kernel":
        monkeypatch.setattr(batch_norm, "TRAINING_FROM", 0)
        monkeypatch.setattr(batch_norm, "EVAL_FROM", 0)
    return request.param


def test_what_runs(path):
    layer, x = BatchNormAct2d(4), torch.randn(2, 4, 3, 3, requires_grad=True)
    for training in (True, False):
        name = layer.train(training)(x).grad_fn.name()
        assert name.startswith("_BatchNormAct") == (path == "kernel"), name
        with fastseg.backend("cpu"):
            assert layer(x).grad_fn.name().startswith("_BatchNormAct")
    # What torch's ops refuse: no elements, and other dtypes of x than of the layer.
    assert layer(x[:0]).shape == (0, 4, 3, 3)
    assert layer.double()(x).dtype == torch.float32


@RANKS
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_training_and_eval_as_torch(rank, arguments):
    """Three batches, then eval, and the buffers: number of batches, running mean and variance."""
    torch.manual_seed(0)
    ours, theirs, plain_one = (kind[rank](5, **arguments) for kind in (OURS, TORCH, PLAIN))
    assert isinstance(ours, TORCH[rank])
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    for layer in (ours, plain_one):
        layer.load_state_dict(theirs.state_dict(), strict=True)
    for training in (True, True, True, False):
        for layer in (ours, theirs, plain_one):
            layer.train(training)
        inputs = [2 * torch.randn(SHAPES[rank]) + 1, torch.randn(SHAPES[rank])]
        grad = torch.randn(SHAPES[rank])
        results = []
        for layer in (ours, theirs, plain_one):
            x, residual = (t.clone().requires_grad_() for t in inputs)
            y = F.relu(layer(x) + residual) if layer is theirs else layer(x, residual)
            leaves = [x, residual, *layer.parameters()]
            results.append([y, *torch.autograd.grad(y, leaves, grad)])
        for result in (results[0], results[2]):
            torch.testing.assert_close(result, results[1])
        for layer in (ours, plain_one):
            torch.testing.assert_close(dict(layer.state_dict()), dict(theirs.state_dict()))


def test_keys_and_numbers_go_both_ways():
    ours, theirs = BatchNormAct2d(4), nn.BatchNorm2d(4)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.train()(torch.randn(2, 4, 3, 3))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert theirs.num_batches_tracked == 1
    torch.testing.assert_close(copy.deepcopy(ours).state_dict(), theirs.state_dict())


def test_a_frozen_layer_in_training_network():
    """In eval mode nothing but the parameters and the input get a gradient, and no buffer changes."""
    ours = BatchNormAct2d(3, activation="leaky_relu", negative_slope=0.2)
    ours.running_mean.normal_()
    before = copy.deepcopy(ours.eval().state_dict())
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None and ours.weight.grad is not None and ours.bias.grad is not None
    assert all(torch.equal(a, b) for a, b in zip(before.values(), ours.state_dict().values(), strict=True))


def test_mixed_precision_and_channels_last():
    ours = BatchNormAct2d(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ours(torch.randn(2, 4, 6, 6).bfloat16().to(memory_format=torch.channels_last))
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    assert BatchNormAct2d(4).bfloat16()(y).dtype == torch.bfloat16
    assert ours.running_mean.dtype == torch.float32 and not torch.equal(ours.running_mean, torch.zeros(4))


def test_compiles_and_updates_its_buffers():
    torch._dynamo.reset()
    ours, same = BatchNormAct2d(3), BatchNormAct2d(3)
    compiled = torch.compile(ours, fullgraph=True)
    for _ in range(2):
        x = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(compiled(x), same(x))
    torch.testing.assert_close(dict(ours.state_dict()), dict(same.state_dict()))


def test_plain_under_a_forced_reference():
    from fastseg.models.layers import layers

    assert layers().BatchNormAct2d is BatchNormAct2d
    with fastseg.backend("reference"):
        assert layers().BatchNormAct3d is plain.BatchNormAct3d


def test_repr_names_the_activation():
    assert "activation=leaky_relu, negative_slope=0.2" in repr(
        BatchNormAct2d(3, activation="leaky_relu", negative_slope=0.2)
    )
    assert repr(BatchNormAct3d(3)).endswith("track_running_stats=True, activation=relu)")


def test_a_residual_is_not_broadcast():
    with pytest.raises(ValueError, match=r"residual has shape \(2, 5, 1, 1\)"):
        BatchNormAct2d(5)(torch.randn(2, 5, 3, 3), torch.randn(2, 5, 1, 1))


@pytest.mark.parametrize(
    ("message", "arguments", "shape"),
    (
        (r"expected 4D input \(got 3D input\)", {}, (5, 4, 4)),
        (r"BatchNormAct2d: input has 4 channels \(shape \(2, 4, 3, 3\)\), expected num_features=5", {}, (2, 4, 3, 3)),
        (r"more than one element a channel", {}, (1, 5, 1, 1)),
        (r"BatchNormAct2d: activation is 'gelu', expected one of", {"activation": "gelu"}, None),
        (r"BatchNormAct2d: negative_slope is -1, expected", {"negative_slope": -1}, None),
    ),
)
def test_errors(message, arguments, shape):
    with pytest.raises(ValueError, match=message):
        BatchNormAct2d(5, **arguments)(torch.randn(shape or (2, 5, 3, 3)))


@pytest.mark.parametrize("momentum", (0.1, None))
def test_checkpointing_counts_a_batch_once(momentum, small_norms_fuse):
    """Forward runs again up to what was saved, which is before running statistics."""
    layers = [BatchNormAct2d(3, momentum=momentum) for _ in range(2)]
    for _ in range(3):
        x = torch.randn(2, 3, 4, 5, requires_grad=True)
        layers[0](x).sum().backward()
        torch.utils.checkpoint.checkpoint(layers[1], x, use_reentrant=False).sum().backward()
    for name, expected in layers[0].state_dict().items():
        assert torch.equal(layers[1].state_dict()[name], expected), name
