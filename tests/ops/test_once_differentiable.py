"""Gradients of gradients are refused, also where no gradient that comes in requires one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastseg
from fastseg import ops
from fastseg.ops.once_differentiable import once_differentiable

W, D, P = torch.randn(4, 4, 3, 3), torch.randn(4, 1, 3, 3), torch.randn(2, 4, 1, 1)
OPS = {
    "attention_gate": lambda x: ops.attention_gate(x, x, P, P, None, P[:1, :2], None),
    "batch_norm_act": lambda x: ops.batch_norm_act(x, training=True),
    "batch_norm_act, given": lambda x: ops.batch_norm_act(x, None, None, torch.zeros(4), torch.ones(4)),
    "squeeze_excitation": lambda x: ops.squeeze_excitation(x, torch.ones(2, 4), torch.ones(4, 2)),
    "aspp_conv2d": lambda x: ops.aspp_conv2d(x, [W], dilations=[1]),
    "separable_aspp_conv2d": lambda x: ops.separable_aspp_conv2d(x, [D], [W[..., :1, :1]], dilations=[1]),
    "dense_conv": lambda x: ops.dense_conv(x, W),
    "depthwise_conv2d": lambda x: ops.depthwise_conv2d(x, D),
    "depthwise_conv_transpose2d": lambda x: ops.depthwise_conv_transpose2d(x, D),
    "dice_cross_entropy": lambda x: ops.dice_cross_entropy(x, torch.zeros(2, 6, 8, dtype=torch.long)),
    "instance_norm_act": lambda x: ops.instance_norm_act(x),
    "pointwise_conv": lambda x: ops.pointwise_conv(x, W[..., :1, :1]),
    "soft_mask_attention": lambda x: ops.soft_mask_attention(x, x),
    "up_conv": lambda x: ops.up_conv(x, W[..., :2, :2]),
}


@pytest.mark.parametrize("op", OPS)
def test_gradient_penalties_are_refused(op):
    """The gradient of a sum is ones, which require nothing."""
    with fastseg.backend("cpu"):
        x = torch.randn(2, 4, 6, 8, requires_grad=True)
        (dx,) = torch.autograd.grad(OPS[op](x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            dx.square().sum().backward()


def test_gradient_penalty_of_an_accelerated_network():
    """The norm keeps its input, and its gradient comes from a sum: what it gave for the weights before was wrong."""
    network = fastseg.accelerate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.LeakyReLU()))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    (dx,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        (dx.norm() - 1).square().backward()


def test_first_gradients_with_a_graph_are_the_same():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor, factor: float) -> Tensor:
            ctx.save_for_backward(x)
            return factor * x * x

        @staticmethod
        @once_differentiable
        def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
            (x,) = ctx.saved_tensors
            return 6 * x * grad, None

    x = torch.randn(5, requires_grad=True)
    for create_graph in (False, True):
        (dx,) = torch.autograd.grad(Square.apply(x, 3.0).sum(), x, create_graph=create_graph)
        assert torch.equal(dx, 6 * x) and dx.requires_grad == create_graph
