"""Batch norms of other people, without any client library."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastseg
from fastseg.accelerate import accelerate, report, restore
from fastseg.nn import batch_norm
from tests.accelerate.conftest import CheckNetwork, besides_convolutions, trained

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def network(dims: int = 2, activation: nn.Module | None = None, **arguments: Any) -> nn.Sequential:
    return nn.Sequential(
        CONV[dims](3, 4, 3, padding=1),
        NORM[dims](4, **arguments),
        activation or nn.ReLU(inplace=True),
        CONV[dims](4, 5, 1),
        NORM[dims](5, **arguments),
    )


def image(dims: int = 2) -> Tensor:
    return torch.randn(3, 3, *(9, 8, 7)[:dims])


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the inputs that reached our op."""
    calls: list[tuple[int, ...]] = []
    op = batch_norm.batch_norm_act
    monkeypatch.setattr(
        batch_norm, "batch_norm_act", lambda x, *args, **named: (calls.append(tuple(x.shape)), op(x, *args, **named))[1]
    )
    yield calls


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2, inplace=True), nn.LeakyReLU(0)])
def test_conv_norm_activation(check_network: CheckNetwork, path: str, dims: int, activation: nn.Module) -> None:
    summary = check_network(network(dims, activation), image(dims))
    assert [entry.note.partition("(")[0] for entry in besides_convolutions(summary)] == [
        f"SwappedBatchNorm{dims}d with {'relu' if isinstance(activation, nn.ReLU) else 'leaky_relu'}",
        "runs in the norm before it",
        f"SwappedBatchNorm{dims}d, no activation",
    ]
    assert summary.left == []


@pytest.mark.parametrize(
    "arguments", [{"momentum": None}, {"momentum": 0.3, "affine": False}, {"track_running_stats": False}, {"eps": 0.1}]
)
def test_arguments(check_network: CheckNetwork, path: str, arguments: dict[str, Any]) -> None:
    check_network(network(**arguments), image())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_over_several_batches_and_both_modes(path: str, momentum: float | None) -> None:
    stock = network(momentum=momentum)
    fused = accelerate(copy.deepcopy(stock))
    for training in (True, True, False, True):
        x = image()
        close(fused.train(training)(x), stock.train(training)(x))
        for (name, expected), got in zip(stock.named_buffers(), fused.buffers(), strict=True):
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got, expected, msg=name)


def test_frozen_norms_in_training(path: str) -> None:
    stock = trained(network())
    fused = accelerate(copy.deepcopy(stock))
    x = image()
    for model in (stock, fused):
        model[1].eval()
        model(x).square().mean().backward()
    for (name, expected), got in zip(stock.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)
    for expected, got in zip(stock.buffers(), fused.buffers(), strict=True):
        close(got, expected)
    assert fused[1].num_batches_tracked == 0 and fused[4].num_batches_tracked == 1


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_only_large_inputs_run_the_kernel(kernel_calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "TRAINING_FROM", 2 * 4 * 8 * 8)
    monkeypatch.setattr(batch_norm, "EVAL_FROM", 4 * 5 * 8 * 8)
    model = accelerate(network())
    model(torch.randn(1, 3, 8, 8))
    assert kernel_calls == []
    model(torch.randn(2, 3, 8, 8))
    assert kernel_calls == [(2, 4, 8, 8), (2, 5, 8, 8)], "in training from TRAINING_FROM"
    model.eval()(torch.randn(4, 3, 8, 8))
    assert kernel_calls[2:] == [(4, 5, 8, 8)], "in eval from EVAL_FROM"
    with fastseg.backend("cpu"):
        model(torch.randn(1, 3, 8, 8))
    assert kernel_calls[3:] == [(1, 4, 8, 8), (1, 5, 8, 8)], "whatever its size when the kernel is forced"


class _Recorded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("small_norms_fuse")
def test_other_devices_run_the_stock_ops_and_no_other(training: bool, dtype: torch.dtype) -> None:
    # "meta" stands for every device without a kernel of ours.
    def ops(model: nn.Module) -> list[str]:
        x = torch.empty(2, 3, 8, 8, device="meta", dtype=dtype)
        model.zero_grad()
        with _Recorded() as recorded:
            model(x).sum().backward()
        return recorded.ops

    stock = network().to("meta", dtype).train(training)
    expected = ops(stock)
    assert any("batch_norm" in op for op in expected) and ops(accelerate(stock)) == expected


@pytest.mark.parametrize("channels_last", [False, True])
def test_autocast(path: str, channels_last: bool) -> None:
    stock = network()
    fused = accelerate(copy.deepcopy(stock), channels_last=channels_last)
    x = image()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, got = stock(x), fused(x)
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)
    got.float().square().sum().backward()
    for expected, got in zip(stock.buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", [None, "cpu"])
def test_compiles_in_one_graph(training: bool, backend: str | None) -> None:
    torch._dynamo.reset()
    stock = trained(network()).train(training)
    fused = accelerate(copy.deepcopy(stock))
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    with fastseg.backend(backend) if backend else nullcontext():
        for x in (image(), torch.randn(5, 3, 9, 8)):
            close(compiled(x), stock(x))
    for expected, got in zip(stock.buffers(), fused.buffers(), strict=True):
        close(got, expected)


def test_copies_and_pickles(path: str) -> None:
    fused = accelerate(network())
    x = image()
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        close(other(x), copy.deepcopy(fused)(x))
        assert report(other) == report(fused) and other[2].norm is other[1] is not fused[1]
        assert [type(m) for m in restore(other).modules()] == [type(m) for m in network().modules()]


def test_one_norm_in_two_places(check_network: CheckNetwork, path: str) -> None:
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 1), norm, nn.LeakyReLU(0.3))
    summary = check_network(model, image())
    assert [entry.note for entry in summary.left] == ["the norm runs in 2 places"] * 2


def test_hooks_see_what_they_saw(path: str) -> None:
    model = network()
    seen: list[Tensor] = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output.detach().clone()))
    x = image()
    model(x)
    accelerate(model)(x)
    close(seen[1], seen[0])
    assert "SwappedBatchNorm2d has hooks" in report(model).left[0].note


def test_one_element_a_channel_is_refused_as_in_stock(path: str) -> None:
    model = accelerate(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    with pytest.raises(ValueError, match=r"one element a channel|more than 1 value per channel"):
        model(torch.randn(1, 3, 1, 1))
    assert model.eval()(torch.randn(1, 3, 1, 1)).shape == (1, 3, 1, 1)


def test_subclasses_stay() -> None:
    class Mine(nn.BatchNorm2d):
        pass

    model = accelerate(nn.Sequential(Mine(3), nn.ReLU()))
    assert type(model[0]) is Mine and type(model[1]) is nn.ReLU
    assert [entry.note for entry in report(model).left] == ["a subclass of BatchNorm2d may compute something else"]


def test_norms_replaced_afterwards_get_their_activation_back() -> None:
    # As Lightning's sync_batchnorm=True does. SyncBatchNorm runs on the CPU in eval alone.
    stock = trained(network()).eval()
    model: Callable[[Tensor], Tensor] = nn.SyncBatchNorm.convert_sync_batchnorm(accelerate(copy.deepcopy(stock)))
    x = image()
    close(model(x), stock(x))
    assert any("took the place of the norm" in entry.note for entry in report(model).left)


@pytest.mark.parametrize("name", ["ASPP2d", "ContextEnhancement", "CBAM"])
def test_layers_of_ours_keep_the_norms_inside(name: str) -> None:
    own = {
        "ASPP2d": lambda: fastseg.nn.ASPP2d(3, 4, dilations=(1, 2), norm="batch"),
        "ContextEnhancement": lambda: fastseg.nn.ContextEnhancement(4),
        "CBAM": lambda: fastseg.nn.CBAM(16, norm=True),
    }[name]()
    classes = [type(module) for module in own.modules()]
    accelerate(nn.Sequential(own))
    assert [type(module) for module in own.modules()] == classes
