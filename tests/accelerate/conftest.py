"""The comparison that every swapped network must pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastseg.accelerate import Entry, Report, accelerate, report, restore
from fastseg.ops import dense_beside_torch

Outputs = list[Tensor]
CheckNetwork = Callable[[nn.Module, Tensor], Report]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_convolutions_run_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of all sizes run the kernel, as those of many channels and pixels do."""
    for limit in ("TILED_CHANNELS", "TILED_PIXELS", "ENOUGH_CHANNELS", "ENOUGH_PIXELS", "ENOUGH_STRIDED_PIXELS"):
        monkeypatch.setattr(dense_beside_torch, limit, 0)


def besides_convolutions(summary: Report) -> list[Entry]:
    """What was swapped of a network but for its dense convolutions."""
    return [entry for entry in summary.swapped if not entry.note.startswith("SwappedConv")]


@pytest.fixture(params=["kernel", "torch's ops"])
def path(request: pytest.FixtureRequest) -> str:
    """What a small batch norm runs."""
    if request.param == "kernel":
        request.getfixturevalue("small_norms_fuse")
    return str(request.param)


def trained(model: nn.Module) -> nn.Module:
    """With running statistics as after some training."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def run(model: nn.Module, x: Tensor) -> Outputs:
    """Outputs, the gradients of the input and of every parameter, and the buffers, which are put back afterwards.

    The same random numbers each time.
    """
    model.zero_grad()
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    x = x.clone().to(next(model.parameters(), x).dtype).requires_grad_()
    torch.manual_seed(1)
    result = model(x)
    outputs = list(result) if isinstance(result, (list, tuple)) else [result]
    generator = torch.Generator().manual_seed(2)
    # Drawn in float32, so that the float64 run gets the same numbers.
    torch.autograd.backward(
        outputs, [torch.randn(y.shape, generator=generator).to(y.dtype).contiguous() for y in outputs]
    )
    assert x.grad is not None
    gradients = [x.grad] + [p.grad for p in model.parameters() if p.grad is not None]
    found = [t.detach().double().clone() for t in outputs + gradients + buffers]
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    return found


def neighbours(x: Tensor) -> list[Tensor]:
    """x, and x with every number off by at most one rounding."""
    generator = torch.Generator().manual_seed(3)
    eps = torch.finfo(x.dtype).eps
    return [x] + [x * (1 + eps * torch.randint(-1, 2, x.shape, generator=generator)) for _ in range(6)]


def check_error_budget(exact: Outputs, stocks: list[Outputs], fused: Outputs) -> None:
    """At most twice the stock model's own distance from float64, and one rounding.

    The stock model's distance is the largest over inputs that differ by a rounding: a number that rounding moves across
    the kink of an activation changes all gradients behind it, by luck in one run and not in the next.

    Over the whole network, every tensor relative to its own size: the parameter gradients of small layers are a handful
    of numbers, of which each may be off by luck.
    """
    assert len(exact) == len(fused)
    size = max(t.norm() / t.numel() ** 0.5 for t in exact)
    # The gradient of a bias before an instance norm is zero: what comes out is the rounding of larger numbers.
    scales = [t.norm() if t.abs().max() > 1e-9 * size else size * t.numel() ** 0.5 for t in exact]
    scales = [scale.clamp_min(torch.finfo(torch.float32).tiny) for scale in scales]
    own = max(distance(stock, exact, scales) for stock in stocks)
    assert distance(fused, exact, scales) <= 2 * own + torch.finfo(torch.float32).eps


def distance(got: Outputs, exact: Outputs, scales: list[Tensor]) -> Tensor:
    relative = [(a - b).norm() / scale for a, b, scale in zip(got, exact, scales, strict=True)]
    return torch.stack(relative).square().mean().sqrt()


def described(model: nn.Module) -> dict[str, tuple[type, set[str]]]:
    """Class and attribute names of every module."""
    return {path: (type(m), set(vars(m))) for path, m in model.named_modules(remove_duplicate=False)}


@pytest.fixture
def check_network(small_convolutions_run_ours: None) -> CheckNetwork:
    def check(model: nn.Module, x: Tensor) -> Report:
        model = trained(copy.deepcopy(model))
        exact, stock, fused = copy.deepcopy(model).double(), copy.deepcopy(model), copy.deepcopy(model)
        parameters = dict(fused.named_parameters(remove_duplicate=False))
        assert accelerate(fused) is fused
        copied = copy.deepcopy(fused)

        for training in (True, False):
            for network in (exact, stock, fused):
                network.train(training)
            check_error_budget(run(exact, x), [run(stock, near) for near in neighbours(x)], run(fused, x))

        after = dict(fused.named_parameters(remove_duplicate=False))
        assert list(after) == list(parameters)
        assert all(after[name] is parameters[name] for name in parameters)
        assert list(fused.state_dict()) == list(stock.state_dict())
        fused.load_state_dict(stock.state_dict(), strict=True)
        stock.load_state_dict(fused.state_dict(), strict=True)

        summary = report(fused)
        once = described(fused)
        accelerate(fused)
        assert described(fused) == once and report(fused) == summary

        for network in (fused, copied):
            network.train(stock.training).load_state_dict(stock.state_dict())
            assert restore(network) is network
            assert described(network) == described(stock)
            assert report(network).swapped == []
            torch.testing.assert_close(run(network, x), run(stock, x), rtol=0, atol=0)
        return summary

    return check
