"""MONAI's AttentionUnet and its AttentionBlock."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("monai")

from monai.networks.nets import AttentionUnet
from monai.networks.nets.attentionunet import AttentionBlock

import fastseg
from fastseg.accelerate import Report, accelerate, report

CheckNetwork = Callable[[nn.Module, Tensor], Report]


def blocks(summary: Report) -> list[str]:
    return [entry.note for entry in summary.swapped if entry.cls == "AttentionBlock"]


class Gated(nn.Module):
    """An AttentionBlock with one input."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.block = AttentionBlock(dims, f_int=3, f_g=5, f_l=4)
        for norm in (self.block.W_g[1], self.block.W_x[1], self.block.psi[1]):  # as after some training
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Any:
        return self.block(g=x[:, :5], x=x[:, 5:])


@pytest.mark.parametrize("dims", (2, 3))
def test_attention_unet(check_network: CheckNetwork, dims: int) -> None:
    model = AttentionUnet(dims, 1, 2, (4, 6, 8), (2, 2))
    summary = check_network(model, torch.randn(2, 1, *(16,) * dims))
    assert blocks(summary) == ["FusedAttentionBlock, one attention_gate in eval"] * 2


@pytest.mark.parametrize("dims", (2, 3))
def test_block(check_network: CheckNetwork, dims: int) -> None:
    assert len(blocks(check_network(Gated(dims), torch.randn(2, 9, *(7,) * dims)))) == 1


def test_one_op_in_eval_and_batch_statistics_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastseg.accelerate import monai_attention

    calls: list[int] = []
    gate = monai_attention.attention_gate
    monkeypatch.setattr(monai_attention, "attention_gate", lambda *args: (calls.append(1), gate(*args))[1])
    stock = Gated(2)
    fused, x = accelerate(copy.deepcopy(stock)), torch.randn(2, 9, 6, 6)
    torch.testing.assert_close(fused(x), stock(x))
    assert not calls
    for name, buffer in stock.named_buffers():
        torch.testing.assert_close(fused.get_buffer(name), buffer)
    torch.testing.assert_close(fused.eval()(x), stock.eval()(x))
    assert calls == [1]


def test_never_out_of_date() -> None:
    stock, other = Gated(2).eval(), Gated(2).eval()
    fused, x = accelerate(copy.deepcopy(stock)), torch.randn(2, 9, 6, 6)
    torch.testing.assert_close(fused(x), stock(x))
    fused.load_state_dict(other.state_dict())
    torch.testing.assert_close(fused(x), other(x))
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (fused, other)]
    for model, optimizer in zip((fused, other), optimizers, strict=True):
        model(x).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(fused(x), other(x))
    for model in (fused, other):
        model.block.W_x[1].weight.data.mul_(2)  # which no version counter sees
    torch.testing.assert_close(fused(x), other(x))


def test_norms_without_statistics_or_parameters() -> None:
    stock = Gated(2)
    stock.block.W_g[1] = nn.BatchNorm2d(3, affine=False)
    fused = accelerate(copy.deepcopy(stock))
    x = torch.randn(2, 9, 6, 6)
    torch.testing.assert_close(fused.eval()(x), stock.eval()(x))
    stock.block.W_x[1] = nn.BatchNorm2d(3, track_running_stats=False)
    fused = accelerate(copy.deepcopy(stock))
    torch.testing.assert_close(fused.eval()(x), stock.eval()(x))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda b: b.W_g[0].conv.register_forward_hook(lambda *args: None), "W_g: Conv2d has hooks"),
        (lambda b: b.relu.register_forward_hook(lambda *args: None), "relu: ReLU is no ReLU without hooks"),
        (lambda b: b.W_x.__setitem__(1, nn.InstanceNorm2d(3)), "W_x.1: InstanceNorm2d is no batch norm of torch"),
        (lambda b: b.psi.__setitem__(2, nn.Softmax(1)), "psi.2: Softmax is no Sigmoid"),
        (lambda b: setattr(b.W_x[0], "conv", nn.Conv2d(4, 3, 3, padding=1)), "W_x.0 is no 1x1 convolution alone"),
        (lambda b: setattr(b, "relu", nn.LeakyReLU()), "relu: LeakyReLU is no ReLU"),
        (lambda b: b.W_g.append(nn.Identity()), "W_g is not a convolution and a norm"),
    ],
)
def test_blocks_that_stay(change: Callable[[Any], Any], why: str) -> None:
    stock = Gated(2)
    change(stock.block)
    accelerate(stock)
    assert type(stock.block) is AttentionBlock
    assert any(entry.note.startswith(why) for entry in report(stock).left)


def test_channels_last_and_sixteen_bit() -> None:
    stock = Gated(2).eval()
    fused, x = accelerate(copy.deepcopy(stock), channels_last=True), torch.randn(2, 9, 6, 6)
    y = fused(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, stock(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused(x).float(), stock(x).float(), rtol=2e-2, atol=2e-2)


def test_torch_compile_without_graph_breaks() -> None:
    stock = Gated(2).eval()
    x = torch.randn(2, 9, 6, 6)
    compiled = torch.compile(fastseg.accelerate(copy.deepcopy(stock)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), stock(x))
