"""The papers' networks on a GPU beside their plain twins, forward and backward, and two steps of the training loop."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import fastseg
from tests.models.cases import CASES, assert_as_exact, build, image, outcome

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("full_precision"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

EVERY = [(name, i) for name, case in CASES.items() for i in range(len(case.all_arguments()))]
every_variant = pytest.mark.parametrize(("name", "variant"), EVERY, ids=[f"{name}-{i}" for name, i in EVERY])


def made(name: str, variant: int, **options: Any) -> torch.nn.Module:
    return build(name, **options, **CASES[name].all_arguments()[variant]).cuda()


@every_variant
@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("autocast", (False, True), ids=("float32", "bfloat16"))
def test_as_exact_as_the_plain_twin(name: str, variant: int, channels_last: bool, autocast: bool) -> None:
    """In eval, where no statistics of a few numbers multiply rounding errors."""
    x = image(name).cuda()
    plain = made(name, variant, plain=True, channels_last=False).eval()
    actual = outcome(made(name, variant, channels_last=channels_last).eval(), x, autocast)
    peer = outcome(plain, x, autocast)
    exact = outcome(plain.double(), x.double())
    assert_as_exact(actual, peer, exact, eps=2.0**-8 if autocast else 2.0**-23)


@every_variant
@pytest.mark.parametrize("channels_last", (False, True))
def test_training_is_the_plain_twins_in_float64(name: str, variant: int, channels_last: bool) -> None:
    """Logits, gradients and running statistics; and the bits of the same step done again."""
    x = image(name).double().cuda()
    plain = made(name, variant, plain=True, channels_last=False).double()
    fused, again = (made(name, variant, channels_last=channels_last).double() for _ in range(2))
    expected, actual, second = outcome(plain, x), outcome(fused, x), outcome(again, x)
    largest = max(float(t.norm()) for t in expected.values())
    for key, t in expected.items():
        assert float((actual[key] - t).norm()) <= 1e-9 * float(t.norm()) + 1e-14 * largest, key
    torch.testing.assert_close(second["logits"], actual["logits"], rtol=0, atol=0)
    for (key, a), b in zip(fused.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", CASES)
def test_compiles_without_a_graph_break(name: str) -> None:
    torch._dynamo.reset()
    network, x = made(name, 0).eval(), image(name).cuda()
    with torch.no_grad():
        expected = network(x)
        actual = torch.compile(network, fullgraph=True)(x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_cascade_as_on_the_cpu() -> None:
    """It follows the data, so that it is not among the cases."""
    pytest.importorskip("scipy")
    small = {"crop_size": 8, "localiser": {"widths": (4, 6, 8)}, "segmenter": {"widths": (4, 6), "dropout": 0.0}}
    network = build("dm_da_unet", **small).eval()
    x = torch.randn(2, 4, 20, 19, 23, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(x)
        found = network.cuda()(x.cuda()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ("32-true", "bf16-mixed"))
def test_two_steps_of_the_training_loop(precision: str, tmp_path: Path) -> None:
    """Of the fused network and of its plain twin: the same losses, as far as two ways to round are one."""
    for needed in ("lightning_fabric", "monai", "safetensors", "matplotlib"):
        pytest.importorskip(needed)
    from fastseg.training.loop import fit
    from tests.training.squares import Squares, small_recipe

    recipe = small_recipe(epochs=2, batch_size=4, precision=precision)
    losses = []
    for folder in ("fused", "plain"):
        with fastseg.backend("reference") if folder == "plain" else nullcontext():
            history = fit(recipe, Squares(4, 0), Squares(2, 1), folder=tmp_path / folder)
        losses.append([epoch.train_loss for epoch in history.epochs])
    assert all(math.isfinite(loss) for loss in losses[0]) and len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if precision == "32-true" else 3e-2)
