"""Derivatives other than one backward pass: torch.func, forward mode, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import fastseg
from fastseg import ops


def filled(value: float, *shape: int) -> Tensor:
    return torch.linspace(0, value, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


#: Of x with three channels, 4x5.
OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "instance_norm_act": lambda x: ops.instance_norm_act(x, activation="leaky_relu"),
    "batch_norm_act": lambda x: ops.batch_norm_act(x, filled(1, 3), training=True),
    "depthwise_conv2d": lambda x: ops.depthwise_conv2d(x, filled(0.3, 3, 1, 3, 3), padding=1),
    "depthwise_separable_conv2d": lambda x: ops.depthwise_separable_conv2d(
        x, filled(0.3, 3, 1, 3, 3), filled(1, 2, 3, 1, 1)
    ),
    "pointwise_conv": lambda x: ops.pointwise_conv(x, filled(0.3, 2, 3, 1, 1)),
    "dense_conv": lambda x: ops.dense_conv(x, filled(0.3, 2, 3, 3, 3), stride=2),
    "dense_conv_transpose": lambda x: ops.dense_conv_transpose(x, filled(0.3, 3, 2, 3, 3), stride=2),
    "up_conv": lambda x: ops.up_conv(x, filled(0.3, 3, 2, 2, 2)),
    "aspp_conv2d": lambda x: ops.aspp_conv2d(x, [filled(0.2, 2, 3, 3, 3)], dilations=[2]),
    "separable_aspp_conv2d": lambda x: ops.separable_aspp_conv2d(
        x, [filled(0.2, 3, 1, 3, 3)], [filled(1, 2, 3, 1, 1)], dilations=[2]
    ),
    "soft_mask_attention": lambda x: ops.soft_mask_attention(x, x.square()),
    "attention_gate": lambda x: ops.attention_gate(
        x, x.square(), filled(1, 2, 3, 1, 1), filled(-1, 2, 3, 1, 1), None, filled(1, 1, 2, 1, 1), None
    ),
    "cbam": lambda x: ops.cbam(x, filled(1, 2, 3), filled(-1, 3, 2), filled(0.1, 1, 2, 7, 7)),
    "dice_cross_entropy": lambda x: ops.dice_cross_entropy(x, torch.arange(5).remainder(3).expand(x.shape[0], 4, 5)),
    "guided_filter": lambda x: ops.guided_filter(x, x, radius=1, eps=0.1),
    "fast_global_smoother": lambda x: ops.fast_global_smoother(x, filled(1, 4, 5), lambda_=2.0, sigma=1.0),
    "cross_scale_aggregate": lambda x: ops.cross_scale_aggregate([x[0], 0.5 * x[0]], lambda_=0.5),
    "wls_filter": lambda x: ops.wls_filter(x, filled(1, 4, 5), lambda_=2.0, tol=1e-12),
}
STEREO = ("guided_filter", "fast_global_smoother", "cross_scale_aggregate", "wls_filter")
NAMES = pytest.mark.parametrize("name", OPS)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return x, direction


def truth(name: str, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Value and derivative along ``direction``, by two backward passes through the definition."""
    with fastseg.backend("reference"):
        x = x.clone().requires_grad_()
        y = OPS[name](x)
        dual = torch.ones_like(y, requires_grad=True)
        (gradient,) = torch.autograd.grad(y, x, dual, create_graph=True)
        (derivative,) = torch.autograd.grad(gradient, dual, direction)
    return y.detach(), derivative


@NAMES
def test_jvp(name: str) -> None:
    x, direction = inputs()
    value, derivative = torch.func.jvp(OPS[name], (x,), (direction,))
    torch.testing.assert_close((value, derivative), truth(name, x, direction))
    assert derivative.abs().max() > 1e-6


@NAMES
def test_dual_numbers(name: str) -> None:
    x, direction = inputs()
    with forward_ad.dual_level():
        value, derivative = forward_ad.unpack_dual(OPS[name](forward_ad.make_dual(x, direction)))
    torch.testing.assert_close((value, derivative), truth(name, x, direction))


@NAMES
def test_gradient(name: str) -> None:
    x, _ = inputs()
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(OPS[name](leaf).square().sum(), leaf)  # by the kernel
    torch.testing.assert_close(torch.func.grad(lambda x: OPS[name](x).square().sum())(x), expected)


# Functions of the stereo side look for NaN, which vmap does not let them.
@pytest.mark.parametrize("name", [name for name in OPS if name not in STEREO])
def test_of_each_image(name: str) -> None:
    x, _ = inputs()
    stack = torch.stack((x, 2 * x, -x))
    expected = torch.stack([OPS[name](one) for one in stack])  # by the kernel
    torch.testing.assert_close(torch.func.vmap(OPS[name])(stack), expected)


# Not all: torch fails an assertion of its own in views of compiled tangents, such as cbam's.
@pytest.mark.parametrize("name", ["instance_norm_act", "separable_aspp_conv2d", "dice_cross_entropy"])
def test_compiled(name: str) -> None:
    """Transforms inside of what is compiled, and dual numbers for what was compiled without them."""
    x, direction = inputs()
    op = OPS[name]
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), op(x))
    expected = truth(name, x, direction)
    with forward_ad.dual_level():
        torch.testing.assert_close(
            tuple(forward_ad.unpack_dual(compiled(forward_ad.make_dual(x, direction)))), expected
        )

    def inside(x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(op, (x,), (direction,))

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: op(x).square().sum())(x)

    torch.testing.assert_close(torch.compile(inside, backend="aot_eager")(x, direction), expected)
    torch.testing.assert_close(torch.compile(gradient, backend="aot_eager")(x), gradient(x))
    torch.testing.assert_close(compiled(x), op(x))


def test_losses_of_each_image() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 3, 4, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (3, 1, 4, 5), generator=generator)
    expected = torch.stack([ops.dice_cross_entropy(a, b) for a, b in zip(logits, targets, strict=True)])
    torch.testing.assert_close(torch.func.vmap(ops.dice_cross_entropy)(logits, targets), expected)


def test_hessian_of_a_loss() -> None:
    x, direction = inputs()
    loss = OPS["dice_cross_entropy"]
    hessian = torch.func.hessian(loss)(x)
    step = 1e-5 * direction
    gradient = torch.func.grad(loss)
    expected = (gradient(x + step) - gradient(x - step)) / 2
    torch.testing.assert_close((hessian * step).flatten(4).sum(-1), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ["instance_norm_act", "dice_cross_entropy"])
def test_a_forced_kernel_refuses(name: str) -> None:
    x, direction = inputs()
    with (
        fastseg.backend("cpu"),
        pytest.raises(fastseg.BackendError, match=rf"{name}: backend 'cpu' is forced .*torch\.func"),
    ):
        torch.func.jvp(OPS[name], (x,), (direction,))


@pytest.mark.parametrize("name", ["instance_norm_act", "depthwise_conv2d", "dice_cross_entropy"])
def test_backward_of_a_kernel_by_the_reference(name: str) -> None:
    y = OPS[name](inputs()[0].requires_grad_())
    message = f"{name}: backend 'reference' is forced for the backward pass of a kernel"
    with fastseg.backend("reference"), pytest.raises(fastseg.BackendError, match=message):
        y.sum().backward()
