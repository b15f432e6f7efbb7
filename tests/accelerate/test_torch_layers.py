"""Norms and nn.Sequential without any client library."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from fastseg import nn as fnn
from fastseg.accelerate import accelerate, report, restore
from fastseg.accelerate.swap import PassThrough
from tests.accelerate.conftest import CheckNetwork, besides_convolutions

X3 = torch.randn(2, 3, 6, 5, 4, generator=torch.Generator().manual_seed(0))


def why(model: nn.Module) -> dict[str, str]:
    return {entry.path: entry.note for entry in report(model).left}


@pytest.mark.parametrize(
    ("conv", "norm", "shape"),
    [
        (nn.Conv1d, nn.InstanceNorm1d, (2, 3, 17)),
        (nn.Conv2d, nn.InstanceNorm2d, (2, 3, 9, 7)),
        (nn.Conv3d, nn.InstanceNorm3d, (2, 3, 6, 5, 4)),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2, inplace=True), nn.LeakyReLU(0), None])
def test_conv_norm_activation(
    check_network: CheckNetwork,
    conv: type[nn.Module],
    norm: type[nn.Module],
    shape: tuple[int, ...],
    affine: bool,
    activation: nn.Module | None,
) -> None:
    layers = [conv(3, 4, 3, padding=1), norm(4, affine=affine)] + ([activation] if activation else [])
    summary = check_network(nn.Sequential(*layers), torch.randn(shape))
    assert len(besides_convolutions(summary)) == (2 if activation else 1) and summary.left == []


def test_group_norm_with_one_channel_a_group(check_network: CheckNetwork) -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.GroupNorm(4, 4), nn.ReLU(), nn.Conv3d(4, 4, 1), nn.GroupNorm(2, 4))
    summary = check_network(model, X3)
    assert [entry.cls for entry in besides_convolutions(summary)] == ["GroupNorm", "ReLU"]
    assert [(entry.path, entry.note) for entry in summary.left] == [
        ("4", "2 groups of 4 channels: only one channel a group is an instance norm")
    ]


@pytest.mark.parametrize("dropout", [nn.Dropout(0.4), nn.Dropout3d(0.4, inplace=True), nn.Dropout(1.0), nn.Identity()])
def test_dropout_between_norm_and_activation_commutes(check_network: CheckNetwork, dropout: nn.Module) -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.InstanceNorm3d(4), dropout, nn.LeakyReLU(0.1))
    summary = check_network(model, X3)
    assert len(besides_convolutions(summary)) == 2


@pytest.mark.parametrize("dropout", [nn.AlphaDropout(0.4), nn.FeatureAlphaDropout(0.4)])
def test_alpha_dropout_does_not(check_network: CheckNetwork, dropout: nn.Module) -> None:
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.InstanceNorm3d(4), dropout, nn.ReLU())
    summary = check_network(model, X3)
    assert len(besides_convolutions(summary)) == 1
    assert "do not commute" in summary.left[0].note


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (nn.PReLU(), "PReLU has no fused kernel"),
        (nn.GELU(), "GELU has no fused kernel"),
        (nn.LeakyReLU(-0.1), "LeakyReLU has negative_slope -0.1, below 0"),
        (type("MyReLU", (nn.ReLU,), {})(), "MyReLU has no fused kernel"),
    ],
)
def test_other_activations_stay(activation: nn.Module, reason: str) -> None:
    model = accelerate(nn.Sequential(nn.InstanceNorm3d(3), activation))
    assert type(model[0]) is fnn.InstanceNormAct3d and model[0].activation == "none"
    assert model[1] is activation
    assert why(model) == {"1": reason}


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (nn.InstanceNorm3d(3, track_running_stats=True), "track_running_stats=True"),
        (nn.LazyInstanceNorm3d(), "does not know its channels yet"),
        (type("MyNorm", (nn.InstanceNorm3d,), {})(3), "a subclass of InstanceNorm3d may compute something else"),
        (nn.BatchNorm1d(3), "BatchNorm1d has no fused kernel"),
        (nn.SyncBatchNorm(3), "SyncBatchNorm takes its statistics over all processes"),
        (nn.LayerNorm(3), "LayerNorm has no fused kernel"),
        (nn.GroupNorm(1, 3), "1 groups of 3 channels"),
    ],
)
def test_norms_that_stay(norm: nn.Module, reason: str) -> None:
    model, cls, activation = nn.Sequential(norm, nn.ReLU()), type(norm), nn.ReLU()
    model[1] = activation
    accelerate(model)
    assert type(model[0]) is cls and model[1] is activation
    assert list(why(model)) == ["0"] and reason in why(model)["0"]


def test_running_statistics_switched_off_later_stay() -> None:
    norm = nn.InstanceNorm3d(3, track_running_stats=True)
    norm.track_running_stats = False
    assert type(accelerate(norm)) is nn.InstanceNorm3d


def test_lazy_norm_is_swapped_once_it_knows_its_channels() -> None:
    model = accelerate(nn.Sequential(nn.LazyInstanceNorm3d(track_running_stats=False), nn.ReLU()))
    model(X3)
    assert type(accelerate(model)[0]) is fnn.InstanceNormAct3d and isinstance(model[1], PassThrough)


def test_forward_replaced_on_the_instance_stays() -> None:
    norm = nn.InstanceNorm3d(3)
    norm.forward = lambda x: x  # type: ignore[method-assign]
    model = accelerate(nn.Sequential(norm, nn.ReLU()))
    assert why(model) == {"0": "its forward was replaced on the instance"}


def test_shared_activation_keeps_its_other_uses(check_network: CheckNetwork) -> None:
    relu = nn.ReLU()
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3), nn.InstanceNorm3d(4), relu, nn.Conv3d(4, 4, 1), relu, nn.InstanceNorm3d(4), relu
    )
    check_network(model, X3)
    accelerate(model)
    assert model[4] is relu and isinstance(model[2], PassThrough) and isinstance(model[6], PassThrough)
    restored = restore(copy.deepcopy(model))
    assert restored[2] is restored[4] is restored[6]
    restore(model)
    assert model[2] is model[4] is model[6] is relu


def test_shared_norm_takes_no_activation(check_network: CheckNetwork) -> None:
    norm = nn.InstanceNorm3d(4, affine=True)
    model = nn.Sequential(nn.Conv3d(3, 4, 3), norm, nn.ReLU(), nn.Conv3d(4, 4, 1), norm, nn.LeakyReLU(0.3))
    summary = check_network(model, X3)
    assert [entry.note for entry in summary.left] == ["the norm runs in 2 places"] * 2


def test_norm_registered_by_a_parent_too_takes_no_activation() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm3d(3)
            self.layers = nn.Sequential(self.norm, nn.ReLU())

    assert why(accelerate(Block())) == {"layers.1": "the norm runs in 2 places"}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_full_backward_hook"])
def test_hooks_see_what_they_saw(place: int, kind: str) -> None:
    model = nn.Sequential(nn.InstanceNorm3d(3), nn.Dropout(0.0), nn.ReLU())
    seen: list[Tensor] = []
    handle = getattr(model[place], kind)(lambda module, args, output: seen.append(output[0].detach().clone()))
    model(X3.clone().requires_grad_()).sum().backward()
    accelerate(model)
    model(X3.clone().requires_grad_()).sum().backward()
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-5)
    assert "has hooks" in why(model)["2"]
    handle.remove()
    assert isinstance(accelerate(model)[2], PassThrough), "free to be fused now"


def test_sequential_subclass_with_its_own_forward_is_not_fused(check_network: CheckNetwork) -> None:
    class Residual(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return x + self[0](x) * self[1](x)

    summary = check_network(Residual(nn.InstanceNorm3d(3), nn.ReLU()), X3)
    assert [entry.note for entry in summary.left] == ["Residual has a forward of its own"]


def test_sequential_subclass_with_torchs_forward_is_fused(check_network: CheckNetwork) -> None:
    class Named(nn.Sequential):
        pass

    model = Named(OrderedDict(conv=nn.Conv3d(3, 4, 3), norm=nn.InstanceNorm3d(4), act=nn.ReLU()))
    summary = check_network(model, X3)
    assert [(entry.path, entry.cls) for entry in besides_convolutions(summary)] == [
        ("norm", "InstanceNorm3d"),
        ("act", "ReLU"),
    ]


def test_users_own_fused_layers_are_not_touched() -> None:
    own = fnn.InstanceNormAct3d(3, activation="none")
    model = nn.Sequential(own, nn.ReLU(), nn.InstanceNorm3d(3), nn.ReLU())
    before = dict(vars(own))
    accelerate(model)
    assert type(model[1]) is nn.ReLU and isinstance(model[3], PassThrough)
    assert [entry.path for entry in report(model).swapped] == ["2", "3"] and report(model).left == []
    restore(model)
    assert type(own) is fnn.InstanceNormAct3d and vars(own) == before


def test_a_norm_alone() -> None:
    norm = nn.InstanceNorm3d(3)
    assert accelerate(norm) is norm and type(norm) is fnn.InstanceNormAct3d
    assert type(restore(norm)) is nn.InstanceNorm3d


@pytest.mark.parametrize("size", [4, 72])
def test_in_place_layer_after_a_norm_that_takes_no_activation(size: int) -> None:
    # 72 cubed floats are more than a MiB, from where on the CPU kernels' outputs come from memory of their own.
    stock = nn.Sequential(nn.Conv3d(1, 1, 1), nn.InstanceNorm3d(1), nn.ReLU6(inplace=True))
    fused = accelerate(copy.deepcopy(stock))
    x = torch.randn(1, 1, size, size, size)
    expected, got = stock(x), fused(x)
    got.sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:input's size at dim")
def test_channels_that_differ_from_num_features_without_affine() -> None:
    # Stock warns and runs; MONAI's VISTA3D relies on it with InstanceNorm1d(1).
    stock = nn.Sequential(nn.InstanceNorm1d(1), nn.ReLU())
    x = torch.randn(5, 16)
    expected = stock(x)
    torch.testing.assert_close(accelerate(stock)(x), expected, rtol=1e-4, atol=1e-5)
