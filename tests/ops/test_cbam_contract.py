"""Channel and spatial attention as torch ops: registration, compilation, autograd's rules, errors."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fastseg
from fastseg import ops
from tests.ops.cbam_cases import CASES, gradients, parameters_of
from tests.support import LAYOUTS, in_layout

FLAGS = {
    "cbam": ("pooled", True, False, False, 1e-5),
    "normalized": ("pooled", True, True, True, 1e-5),
    "spatial": ("pooled", True, False, False, 1e-5),
    "channel": ("none", True, False, False, 1e-5),
    "squeeze": ("none", False, False, False, 1e-5),
    "scse": ("projected", False, False, False, 1e-5),
}
#: Where each case's parameters stand among the op's eight.
PLACES = {
    "cbam": (0, 1, 2, 3, 4, 5),
    "normalized": (0, 2, 4, 6, 7),
    "spatial": (4,),
    "channel": (0, 2),
    "squeeze": (0, 2),
    "scse": (0, 1, 2, 3, 4, 5),
}


NEEDED = {"cbam": 6, "normalized": 8, "spatial": 3, "channel": 3, "squeeze": 2, "scse": 3}  # tensors for backward


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", tuple(CASES))
def test_opcheck(case, layout):
    x = in_layout(torch.randn(2, 5, 4, 6), layout)
    parameters = [None] * 8
    for place, t in zip(PLACES[case], parameters_of(case, x.shape, torch.float32), strict=True):
        parameters[place] = t
    torch.library.opcheck(torch.ops.fastseg.cbam.default, (x, *parameters, *FLAGS[case]))
    _, saved = torch.ops.fastseg.cbam(x, *parameters, *FLAGS[case])
    assert len(saved) == NEEDED[case], "a small call spends its time on tensors"
    torch.library.opcheck(
        torch.ops.fastseg.cbam_backward.default, (torch.randn_like(x), x, *parameters, saved, *FLAGS[case])
    )


@pytest.mark.parametrize("case", tuple(CASES))
def test_gradcheck(case):
    shape = (2, 3, 4, 3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (x, *parameters_of(case, shape, torch.float64))]
    assert torch.autograd.gradcheck(CASES[case].fused, inputs)


@pytest.mark.parametrize("case", tuple(CASES))
def test_some_gradients_only(case):
    shape = (2, 5, 6, 7)
    inputs = [torch.randn(shape), *parameters_of(case, shape, torch.float32)]
    grad = torch.randn(shape)
    every = gradients(CASES[case].fused, inputs, grad)[1:]
    for chosen in range(len(inputs)):
        leaves = [t.clone().requires_grad_(i == chosen) for i, t in enumerate(inputs)]
        CASES[case].fused(*leaves).backward(grad)
        assert torch.equal(leaves[chosen].grad, every[chosen])
        assert all(t.grad is None for i, t in enumerate(leaves) if i != chosen)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", tuple(CASES))
def test_compile_without_break_or_recompile(case, layout):
    torch._dynamo.reset()
    fused = CASES[case].fused
    function = torch.compile(lambda x, *p: fused(x * 2, *p).sum(1), fullgraph=True, dynamic=True)
    for size, stance in ((8, "default"), (10, "fail_on_recompile")):
        x = in_layout(torch.randn(2, 3, size, size + 1), layout)
        inputs = [t.requires_grad_() for t in (x, *parameters_of(case, x.shape, torch.float32))]
        with torch.compiler.set_stance(stance):
            y = function(*inputs)
        expected = fused(inputs[0] * 2, *inputs[1:]).sum(1)
        torch.testing.assert_close(y, expected)
        grad = torch.randn_like(y)
        ours, theirs = (torch.autograd.grad(out, inputs, grad) for out in (y, expected))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_compile_updates_running_statistics():
    torch._dynamo.reset()
    norms = [torch.nn.BatchNorm2d(1) for _ in range(2)]

    def attend(x, weight, norm):
        running = {"running_mean": norm.running_mean, "running_var": norm.running_var}
        return ops.spatial_attention(x, weight, normalize=True, training=True, **running)

    x, weight = torch.randn(2, 3, 8, 9), torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(torch.compile(attend, fullgraph=True)(x, weight, norms[0]), attend(x, weight, norms[1]))
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var)
    assert norms[0].running_mean != 0


def test_saved_for_backward_is_x_and_maps():
    saved: list[torch.Tensor] = []
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    parameters = parameters_of("cbam", x.shape, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        CASES["cbam"].fused(x, *parameters)
    large = [t for t in saved if t.numel() >= x.numel()]
    assert len(large) == 1 and large[0].data_ptr() == x.data_ptr()
    maps = 4 * 2 * 64  # mean, maximum, its channel, the gate
    pools = (2 + 1 + 1) * 2 * 16  # mean, maximum, its pixel, the gate
    assert sum(t.numel() for t in saved) == x.numel() + maps + pools + sum(t.numel() for t in parameters)


@pytest.mark.parametrize("case", tuple(CASES))
def test_empty_batch(case):
    x = torch.empty(0, 3, 4, 5, requires_grad=True)
    parameters = [t.requires_grad_() for t in parameters_of(case, x.shape, torch.float32)]
    y = CASES[case].fused(x, *parameters)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape and all((t.grad == 0).all() for t in parameters)


def test_autocast_keeps_sixteen_bit():
    conv = torch.nn.Conv2d(3, 8, 3)
    parameters = [t.requires_grad_() for t in parameters_of("cbam", (1, 8, 8, 8), torch.float32)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = CASES["cbam"].fused(conv(torch.randn(1, 3, 10, 10)), *parameters)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in parameters)


def test_double_backward_is_refused():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    parameters = parameters_of("cbam", x.shape, torch.float64)
    (grad,) = torch.autograd.grad(CASES["cbam"].fused(x, *parameters).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(lambda t: CASES["cbam"].fused(t, *parameters), (x,))


def test_activation_checkpointing():
    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    parameters = parameters_of("cbam", x.shape, torch.float32)
    (plain,) = torch.autograd.grad(CASES["cbam"].fused(x, *parameters).square().sum(), x)
    again = checkpoint(CASES["cbam"].fused, x, *parameters, use_reentrant=False)
    assert torch.equal(plain, torch.autograd.grad(again.square().sum(), x)[0])


def test_weights_of_convolutions_are_weights_of_dense_layers():
    x, fc1, fc2 = torch.randn(2, 6, 5, 4, 3), torch.randn(2, 6), torch.randn(6, 2)
    ones = (1, 1, 1)
    assert torch.equal(
        ops.channel_attention(x, fc1, fc2), ops.channel_attention(x, fc1.view(2, 6, *ones), fc2.view(6, 2, *ones))
    )


def test_explain_knows_every_function():
    for name in ("cbam", "channel_attention", "spatial_attention", "squeeze_excitation", "scse"):
        assert "cpu        runs" in fastseg.explain(name, torch.randn(1, 3, 4, 5))


VALID = {
    "x": torch.randn(2, 3, 5, 4),
    "fc1_weight": torch.randn(2, 3),
    "fc2_weight": torch.randn(3, 2),
    "spatial_weight": torch.randn(1, 2, 3, 3),
}


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"cbam: x has shape \(2, 3, 4\), expected rank 4 or 5", {"x": torch.randn(2, 3, 4)}),
        (TypeError, r"x is torch.int64, expected float32", {"x": torch.ones(1, 3, 3, 3, dtype=torch.int64)}),
        (ValueError, r"x has shape \(2, 3, 0, 4\), expected at least one channel", {"x": torch.randn(2, 3, 0, 4)}),
        (ValueError, r"fc1_weight has shape \(2, 4\), expected \(H, 3\)", {"fc1_weight": torch.randn(2, 4)}),
        (ValueError, r"fc1_weight has shape \(0, 3\)", {"fc1_weight": torch.randn(0, 3)}),
        (ValueError, r"fc1_weight has shape \(2, 3, 2, 1\)", {"fc1_weight": torch.randn(2, 3, 2, 1)}),
        (TypeError, r"fc1_weight is torch.int64", {"fc1_weight": torch.ones(2, 3, dtype=torch.int64)}),
        (ValueError, r"fc2_weight has shape \(2, 3\), expected \(3, 2\)", {"fc2_weight": torch.randn(2, 3)}),
        (ValueError, r"fc2_weight is on meta, expected x's", {"fc2_weight": torch.randn(3, 2, device="meta")}),
        (ValueError, r"fc1_bias has shape \(3,\), expected \(2,\)", {"fc1_bias": torch.randn(3)}),
        (ValueError, r"fc2_bias has shape \(2,\), expected \(3,\)", {"fc2_bias": torch.randn(2)}),
        (ValueError, r"spatial_weight has shape \(1, 2, 4, 3\)", {"spatial_weight": torch.randn(1, 2, 4, 3)}),
        (ValueError, r"expected \(1, 2, kH, kW\) with an odd", {"spatial_weight": torch.randn(1, 2, 3, 3, 3)}),
        (ValueError, r"spatial_bias has shape \(2,\), expected \(1,\)", {"spatial_bias": torch.randn(2)}),
        (ValueError, r"order is 'min', expected one of 'mean_max', 'max_mean'", {"order": "min"}),
        (ValueError, r"norm_weight is given and normalize is False", {"norm_weight": torch.ones(1)}),
        (ValueError, r"one of running_mean and", {"normalize": True, "running_mean": torch.ones(1)}),
        (ValueError, r"eps is nan, expected a finite number >= 0", {"eps": float("nan")}),
        (ValueError, r"momentum is -1, expected", {"momentum": -1}),
        (ValueError, r"one has no variance", {"normalize": True, "x": torch.randn(1, 3, 1, 1)}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_errors_name_the_argument(error, message, arguments):
    with pytest.raises(error, match=message):
        ops.cbam(**{**VALID, **arguments})


def test_errors_of_scse():
    with pytest.raises(ValueError, match=r"scse: spatial_weight has shape \(1, 2, 3, 3\), expected \(1, 3, 1, 1\)"):
        ops.scse(**VALID)
