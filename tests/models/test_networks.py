"""What holds for every network: shapes, layouts, autocast, compiling, agreement with plain torch, keys, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastseg import models
from tests.models.cases import CASES, assert_as_close, assert_as_exact, build, count, full_size, image, keys_of, outcome

EVERY = [(name, arguments) for name, case in CASES.items() for arguments in case.all_arguments()]
every_variant = pytest.mark.parametrize(
    ("name", "arguments"),
    EVERY,
    ids=[f"{name}-{[n for n, _ in EVERY[:i]].count(name)}" for i, (name, _) in enumerate(EVERY)],
)
every_network = pytest.mark.parametrize("name", CASES)


def test_every_network_has_a_case():
    # The cascade takes volumes of any size, follows the data and has a stage without gradients: test_dm_da_unet.py.
    assert set(CASES) | {"dm_da_unet"} == set(models.list_models())


@every_variant
@pytest.mark.parametrize("channels_last", (False, True))
def test_fused_is_plain_in_float64(name: str, arguments: dict[str, Any], channels_last: bool) -> None:
    """In training: logits, gradients and running statistics with the same weights, forward and backward."""
    x = image(name).double()
    plain = build(name, plain=True, channels_last=False, **arguments).double()
    fused = build(name, channels_last=channels_last, **arguments).double()
    expected, actual = outcome(plain, x), outcome(fused, x)
    assert actual["logits"].shape == (len(x), fused.out_channels, *x.shape[2:])
    largest = max(float(t.norm()) for t in expected.values())
    for key, t in expected.items():
        assert float((actual[key] - t).norm()) <= 1e-9 * float(t.norm()) + 1e-14 * largest, key
    for (key, a), b in zip(fused.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=key)


@every_variant
@pytest.mark.parametrize("channels_last", (False, True))
def test_fused_is_as_exact_as_plain(name: str, arguments: dict[str, Any], channels_last: bool) -> None:
    """In eval, where no statistics of a few numbers multiply rounding errors."""
    x = image(name)
    plain = build(name, plain=True, channels_last=False, **arguments).eval()
    fused = build(name, channels_last=channels_last, **arguments).eval()
    actual, peer = outcome(fused, x), outcome(plain, x)
    assert_as_exact(actual, peer, outcome(plain.double(), x.double()))


@every_network
def test_autocast(name: str) -> None:
    arguments, x = CASES[name].arguments, image(name)
    plain = build(name, plain=True, channels_last=False, **arguments).eval()
    peer = outcome(plain, x, autocast=True)
    exact = outcome(plain.double(), x.double())
    for channels_last in (False, True):
        network = build(name, channels_last=channels_last, **arguments).eval()
        actual = outcome(network, x, autocast=True)
        assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
        assert_as_close(actual, peer, exact, eps=2.0**-8)


@every_network
def test_compiles_without_a_graph_break(name: str) -> None:
    network = build(name, **CASES[name].arguments).eval()
    x = image(name)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_training_step_compiled_by_inductor() -> None:
    name, arguments = "unet_cbam", {"widths": (4, 6), "ratio": 2}
    x = image(name)
    network = build(name, **arguments)
    peer = outcome(network, x)
    exact = outcome(build(name, plain=True, channels_last=False, **arguments).double(), x.double())
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True)
    actual = {key.removeprefix("_orig_mod."): value for key, value in outcome(compiled, x).items()}
    assert_as_exact(actual, peer, exact)


@every_network
def test_bad_input_is_refused(name: str) -> None:
    network = build(name, **CASES[name].arguments)
    x = image(name)
    with pytest.raises(ValueError, match=rf"^{name}: x has shape .*, expected rank {x.ndim}$"):
        network(x[0])
    with pytest.raises(ValueError, match=rf"^{name}: x has {x.shape[1] + 1} channels .*, expected {x.shape[1]}$"):
        network(torch.cat((x, x[:, :1]), 1))
    empty = x.new_empty(*x.shape[:-1], 0)
    with pytest.raises(ValueError, match=rf"^{name}: x has spatial sizes .*, expected multiples of \d+$"):
        network(empty)
    if network.size_divisor > 1:
        with pytest.raises(ValueError, match=rf"expected multiples of {network.size_divisor}$"):
            network(x[..., 1:])
    for argument in ("in_channels", "out_channels"):
        with pytest.raises(ValueError, match=rf"^{name}: {argument} is 0, expected"):
            build(name, **{**CASES[name].arguments, argument: 0})


@every_network
def test_keys_are_those_of_weight_files(name: str) -> None:
    network = build(name, **CASES[name].arguments)
    assert keys_of(network) == CASES[name].keys
    plain = build(name, plain=True, **CASES[name].arguments)
    assert keys_of(plain) == CASES[name].keys


@every_network
def test_number_of_parameters(name: str) -> None:
    assert count(full_size(name)) == CASES[name].parameters


@every_network
def test_probabilities(name: str) -> None:
    network = build(name, **CASES[name].arguments)
    logits = torch.randn(2, network.out_channels, 3, 5)
    expected = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid()}
    torch.testing.assert_close(network.probabilities(logits), expected[network.output])


@every_network
def test_trains_without_batch_norms_of_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They and what follows them are one op, on large inputs: conftest.py lowers the limit."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("torch's batch norm runs")

    plain = build(name, plain=True, **CASES[name].arguments)
    network = build(name, **CASES[name].arguments)
    has_norms = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in network.modules())
    monkeypatch.setattr(torch.nn.functional, "batch_norm", refused)
    network(image(name))
    if has_norms:
        with pytest.raises(AssertionError, match="torch's batch norm runs"):
            plain(image(name))
