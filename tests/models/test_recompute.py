"""Recomputing: the same gradients, from what makes a tensor instead of the tensor."""

from __future__ import annotations

import pytest
import torch

from fastseg import models
from fastseg.models import recompute as recompute_module
from fastseg.models.recompute import made_again, recomputing, values_of
from tests.models.cases import build, image, outcome

SMALL = {"widths": (4, 6, 8), "dropout": 0.3}


@pytest.mark.parametrize("autocast", (False, True))
@pytest.mark.parametrize("batch", (1, 2))
def test_a_network_has_the_same_gradients(batch, autocast):
    x = image("da_unet_3d", batch)
    results = []
    for recompute in (False, True):
        network = build("da_unet_3d", **SMALL, recompute=recompute)
        torch.manual_seed(3)
        results.append(outcome(network, x, autocast))
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("recompute", (False, True))
def test_what_a_network_does_not_keep(recompute, monkeypatch):
    replaced = []
    pack = recompute_module._pack

    def spy(t: torch.Tensor) -> object:
        kept = pack(t)
        replaced.append(kept is not t)
        return kept

    monkeypatch.setattr(recompute_module, "_pack", spy)
    network = models.create("da_unet_3d", widths=(4, 6, 8), dropout=0.0, recompute=recompute)
    network(image("da_unet_3d", 2)).sum().backward()
    # On each of two levels: the inputs of the dense block's two convolutions, its output twice, the inputs of the
    # trunk's second convolution, of the soft mask and of the localization module's residual block. And the bottom's.
    assert sum(replaced) == (2 * 7 + 1 if recompute else 0)


def test_what_is_kept_is_how_it_is_made():
    calls = []
    x = torch.randn(5, requires_grad=True)

    def make() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return x.detach() * 2

    with recomputing():
        y = made_again(x * 2, make)
        assert values_of(y) is make
        z = y * y
    assert calls == []
    z.sum().backward()
    assert calls == [False, False]
    torch.testing.assert_close(x.grad, 8 * x.detach())


def test_nothing_is_recomputed_outside():
    x = torch.randn(5, requires_grad=True)
    y = made_again(x * 2, lambda: pytest.fail("made again"))
    (y * y).sum().backward()
    torch.testing.assert_close(x.grad, 8 * x.detach())
    assert torch.equal(values_of(y)(), y)
