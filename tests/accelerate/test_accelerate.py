"""What a swapped model must survive, and the errors."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastseg
from fastseg.accelerate import Entry, accelerate, report, restore

MODULE_ERROR = "model is int, expected a torch.nn.Module"


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1),
        nn.InstanceNorm3d(4, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
        nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.PReLU()),
        nn.Conv3d(4, 2, 1),
    )


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 1, 6, 5, 4)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [accelerate, report, restore])
def test_not_a_module(function: Callable[[nn.Module], object]) -> None:
    with pytest.raises(TypeError, match=f"{function.__name__}: {MODULE_ERROR}"):
        function(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [accelerate, report, restore])
@pytest.mark.filterwarnings("ignore")  # jit.trace is deprecated and warns about torch's own checks
def test_script_module(function: Callable[[nn.Module], object], x: Tensor) -> None:
    with pytest.raises(TypeError, match="compiled already"):
        function(torch.jit.trace(network(), x))


def test_inside_a_wrapper(x: Tensor) -> None:
    class Wrapper(nn.Module):  # as DistributedDataParallel holds it
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.module(x)
            return y

    wrapped = Wrapper(network())
    expected = wrapped(x)
    accelerate(wrapped)
    close(wrapped(x), expected)
    assert [entry.path for entry in report(wrapped).swapped] == [
        f"module.{path}" for path in ("0", "1", "2", "3.0", "3.1", "4")
    ]
    restore(wrapped.module)
    assert report(wrapped).swapped == []


def test_compiled_before_and_after(x: Tensor) -> None:
    model = network()
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(compiled(x), expected)
    assert accelerate(compiled) is compiled
    assert report(compiled) == report(model) and len(report(model).swapped) == 6
    close(compiled(x), expected)
    close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
    restore(compiled)
    assert report(model).swapped == []
    close(compiled(x), expected)


def test_deepcopy_and_pickle(x: Tensor) -> None:
    model = accelerate(network(), channels_last=True)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        close(other(x), expected)
        assert report(other) == report(model)
        restore(other)
        assert [type(m) for m in other.modules()] == [type(m) for m in network().modules()]
        assert not other._forward_pre_hooks and other[0].weight.is_contiguous()
        close(other(x), expected)
    assert len(report(model).swapped) == 7, "the copies' restoring did not reach the model"


def test_unpickled_in_a_fresh_process(x: Tensor, tmp_path: object) -> None:
    path = f"{tmp_path}/model.pt"
    torch.save(accelerate(network()), path)
    program = (
        "import sys, torch; model = torch.load(sys.argv[1], weights_only=False); model(torch.ones(1, 1, 4, 4, 4)); "
        "from fastseg.accelerate import restore; print(type(restore(model)[1]).__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "InstanceNorm3d"


def test_optimizer_made_before_stays_valid(x: Tensor) -> None:
    stock, model = network(), network()
    model.load_state_dict(stock.state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (stock, model)]
    accelerate(model, channels_last=True)
    for _ in range(3):
        for m, optimizer in zip((stock, model), optimizers, strict=True):
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
    for expected, got in zip(stock.parameters(), model.parameters(), strict=True):
        close(got, expected)


def test_train_and_eval_reach_everything() -> None:
    model = accelerate(network())
    model.eval()
    restore(model)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_to_dtype(x: Tensor, dtype: torch.dtype) -> None:
    stock = network()
    fused = accelerate(copy.deepcopy(stock)).to(dtype)
    expected, got = stock.to(dtype)(x.to(dtype)), fused(x.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


def test_autocast(x: Tensor) -> None:
    stock = network()
    fused = accelerate(copy.deepcopy(stock))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, got = stock(x), fused(x)
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)
    got.float().sum().backward()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(x: Tensor, use_reentrant: bool) -> None:
    stock = network()
    fused = accelerate(copy.deepcopy(stock))
    stock(x).square().sum().backward()
    checkpoint(fused, x.clone().requires_grad_(), use_reentrant=use_reentrant).square().sum().backward()
    for expected, got in zip(stock.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-3, atol=1e-4)


def test_reference_backend_runs_plain_torch_ops(x: Tensor) -> None:
    model = accelerate(network())
    expected = model(x)
    with fastseg.backend("reference"), torch.profiler.profile() as profile:
        close(model(x), expected)
    assert not any(event.key.startswith("fastseg::") for event in profile.key_averages())


def test_repr_names_what_runs() -> None:
    text = str(accelerate(network()))
    assert "InstanceNormAct3d(4, eps=1e-05" in text and "activation=leaky_relu" in text
    assert "LeakyReLU(negative_slope=0.01, inplace=True) runs in the norm before it" in text


def test_report_text() -> None:
    model = network()
    assert str(report(model)).startswith("fastseg.accelerate: 0 swapped, 6 left\nleft:\n")
    accelerate(model)
    assert str(report(model)) == "\n".join(
        [
            "fastseg.accelerate: 6 swapped, 1 left",
            "swapped:",
            "  3 x Conv3d: SwappedConv3d",
            "      0, 3.0, 4",
            "  1 x InstanceNorm3d: InstanceNormAct3d with leaky_relu(0.01)",
            "      1",
            "  1 x LeakyReLU: runs in the norm before it",
            "      2",
            "  1 x InstanceNorm3d: InstanceNormAct3d, no activation",
            "      3.1",
            "left:",
            "  1 x PReLU: PReLU has no fused kernel",
            "      3.2",
        ]
    )
    assert report(model).left == [Entry("3.2", "PReLU", "PReLU has no fused kernel")]


def test_report_text_groups_and_shortens() -> None:
    model = accelerate(nn.Sequential(*(nn.InstanceNorm3d(2) for _ in range(5))))
    assert str(report(model)).splitlines()[2:] == [
        "  5 x InstanceNorm3d: InstanceNormAct3d, no activation",
        "      0, 1, 2 and 2 more",
    ]


def test_reasons_are_derived_anew() -> None:
    model = accelerate(nn.Sequential(nn.InstanceNorm3d(2), nn.PReLU()))
    model[1] = nn.ReLU()
    assert [entry.note for entry in report(model).left] == ["accelerate makes it InstanceNormAct3d with relu"]
    accelerate(model)
    assert report(model).left == []
    restore(model)
    assert set(vars(model[0])) == set(vars(nn.InstanceNorm3d(2)))


def test_class_changed_by_somebody_else_since() -> None:
    model = accelerate(network())
    nn.utils.parametrize.register_parametrization(model[1], "weight", nn.Identity())
    with pytest.raises(RuntimeError, match="restore: 1 is a ParametrizedInstanceNormAct3d, expected the"):
        restore(model)
    assert len(report(model).swapped) == 6, "nothing was restored"
    nn.utils.parametrize.remove_parametrizations(model[1], "weight")
    assert report(restore(model)).swapped == []


def test_client_libraries_are_not_imported() -> None:
    program = (
        "import sys; from torch import nn; from fastseg.accelerate import accelerate; "
        "accelerate(nn.InstanceNorm3d(2)); print({'monai', 'dynamic_network_architectures'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
