"""Norm layers with their activation: torch's layers in every respect but the activation and the residual."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastseg.nn import GroupNormAct, InstanceNormAct1d, InstanceNormAct2d, InstanceNormAct3d

SPATIAL = {1: (7,), 2: (6, 7), 3: (4, 5, 6)}
OURS = {1: InstanceNormAct1d, 2: InstanceNormAct2d, 3: InstanceNormAct3d}
TORCH = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
RANKS = pytest.mark.parametrize("rank", [1, 2, 3])
EVERY_LAYER = pytest.mark.parametrize("name", ["1d", "2d", "3d", "group"])


def pair(name: str, **kwargs: object) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """Our affine layer of five channels with its activation, torch's with the same random parameters, a shape."""
    ours: nn.Module
    theirs: nn.Module
    if name == "group":
        ours, theirs, spatial = GroupNormAct(5, 5, **kwargs), nn.GroupNorm(5, 5), SPATIAL[2]
    else:
        rank = int(name[0])
        ours, theirs, spatial = OURS[rank](5, affine=True, **kwargs), TORCH[rank](5, affine=True), SPATIAL[rank]
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs, (2, 5, *spatial)


# ---- parameters


@RANKS
@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_has_the_keys_of_torch(rank: int, affine: bool) -> None:
    ours, theirs = OURS[rank](4, affine=affine), TORCH[rank](4, affine=affine)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert list(dict(ours.named_parameters())) == list(dict(theirs.named_parameters()))
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    TORCH[rank](4, affine=affine).load_state_dict(ours.state_dict(), strict=True)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_has_the_keys_of_torch(affine: bool) -> None:
    ours, theirs = GroupNormAct(4, 4, affine=affine), nn.GroupNorm(4, 4, affine=affine)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_arguments_in_the_order_of_torch() -> None:
    layer = InstanceNormAct2d(4, 1e-3, 0.2, True, False, "cpu", torch.float64)
    assert (layer.num_features, layer.eps, layer.momentum, layer.affine) == (4, 1e-3, 0.2, True)
    assert layer.weight.dtype == torch.float64
    group = GroupNormAct(4, 4, 1e-3, True, "meta", torch.bfloat16)
    assert (group.num_groups, group.num_channels, group.eps) == (4, 4, 1e-3)
    assert group.weight.is_meta and group.weight.dtype == torch.bfloat16
    assert (layer.activation, layer.negative_slope) == (group.activation, group.negative_slope) == ("leaky_relu", 0.01)


@EVERY_LAYER
def test_is_an_instance_of_torchs_layer(name: str) -> None:
    ours, theirs, _ = pair(name)
    assert isinstance(ours, type(theirs))


# ---- results


@EVERY_LAYER
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_is_torchs_layer_with_what_follows_it(name: str, activation: str, with_residual: bool) -> None:
    ours, theirs, shape = pair(name, activation=activation, negative_slope=0.2)
    residual = torch.randn(shape) if with_residual else None
    grad = torch.randn(shape)
    act = {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, 0.2)}[activation]
    x = torch.randn(shape)
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        if layer is ours:
            y = ours(leaf) if residual is None else ours(leaf, residual)
        else:
            y = act(theirs(leaf) if residual is None else theirs(leaf) + residual)
        results.append([y, *torch.autograd.grad(y, [leaf, *layer.parameters()], grad)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@RANKS
@pytest.mark.parametrize("with_residual", [False, True])
def test_unbatched_input(rank: int, with_residual: bool) -> None:
    ours, _, (_, *shape) = pair(f"{rank}d")
    x = torch.randn(shape)
    residual = torch.randn(shape) if with_residual else None
    y = ours(x, residual)
    batched = ours(x[None], None if residual is None else residual[None])
    assert y.shape == x.shape and torch.equal(y, batched[0])


@RANKS
def test_eval_is_training(rank: int) -> None:
    ours, _, shape = pair(f"{rank}d")
    x = torch.randn(shape)
    assert torch.equal(ours.train()(x), ours.eval()(x))


@EVERY_LAYER
def test_weight_without_bias(name: str) -> None:
    """What ``bias=False`` of newer torch versions leaves."""
    ours, theirs, shape = pair(name, activation="none")
    for layer in (ours, theirs):
        layer.register_parameter("bias", None)
    x = torch.randn(shape)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@EVERY_LAYER
def test_no_gradient_for_a_frozen_layer(name: str) -> None:
    ours, _, shape = pair(name)
    ours.requires_grad_(False)
    assert not ours(torch.randn(shape)).requires_grad
    x = torch.randn(shape, requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None and all(parameter.grad is None for parameter in ours.parameters())


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 1, 1), (1, 4, 1, 1, 1)], ids=str)
def test_group_norm_of_one_element_a_channel(shape: tuple[int, ...], activation: str) -> None:
    """It has no variance, so the norm is zero; torch's group norm takes it where the batch has several samples."""
    ours, theirs = GroupNormAct(4, 4, activation=activation, negative_slope=0.2), nn.GroupNorm(4, 4)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    x, residual = torch.randn(shape, requires_grad=True), torch.randn(shape)
    if shape[0] == 1:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            theirs(x)
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            ours(x)
        return
    act = {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, 0.2)}[activation]
    torch.testing.assert_close(ours(x), act(theirs(x)))
    torch.testing.assert_close(ours(x, residual), act(theirs(x) + residual))
    ours(x).sum().backward()
    assert x.grad is not None


@RANKS
def test_instance_norm_of_one_element_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="more than one spatial element"):
        OURS[rank](4)(torch.randn(2, 4, *(1,) * rank))


# ---- what is refused


@RANKS
def test_running_statistics_are_refused(rank: int) -> None:
    message = rf"InstanceNormAct{rank}d: track_running_stats is True, expected False.*use torch.nn's layer"
    with pytest.raises(ValueError, match=message):
        OURS[rank](4, track_running_stats=True)


def test_groups_of_several_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="GroupNormAct: num_groups is 2, expected num_channels=4"):
        GroupNormAct(2, 4)


@pytest.mark.parametrize(("layer", "args"), [(InstanceNormAct2d, (4,)), (GroupNormAct, (4, 4))])
def test_activations_are_checked_when_the_layer_is_made(layer: type[nn.Module], args: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{layer.__name__}: activation is 'gelu', expected one of 'none'"):
        layer(*args, activation="gelu")
    with pytest.raises(ValueError, match=f"{layer.__name__}: negative_slope is -1, expected a finite number >= 0"):
        layer(*args, negative_slope=-1)


@RANKS
@pytest.mark.parametrize("unbatched", [False, True])
def test_wrong_channels_as_torch(rank: int, unbatched: bool) -> None:
    """An error where parameters have that many elements, otherwise a warning."""
    shape = (3, *SPATIAL[rank]) if unbatched else (2, 3, *SPATIAL[rank])
    x = torch.randn(shape)
    with pytest.raises(ValueError, match="num_features"):
        TORCH[rank](5, affine=True)(x)
    with pytest.raises(ValueError, match=rf"InstanceNormAct{rank}d: input has 3 channels .*, expected num_features=5"):
        OURS[rank](5, affine=True)(x)
    with pytest.warns(UserWarning, match="num_features"):
        expected = TORCH[rank](5)(x)
    with pytest.warns(UserWarning, match=f"InstanceNormAct{rank}d: input has 3 channels"):
        y = OURS[rank](5, activation="none")(x)
    torch.testing.assert_close(y, expected)


@EVERY_LAYER
def test_right_channels_do_not_warn(name: str) -> None:
    ours, _, shape = pair(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(torch.randn(shape))


def test_group_norm_of_wrong_channels() -> None:
    for shape in ((2, 3, 4, 4), (2, 3), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"GroupNormAct: input has 3 channels .*, expected num_channels=5"):
            GroupNormAct(5, 5)(torch.randn(shape))


@RANKS
def test_wrong_rank_as_torch(rank: int) -> None:
    x = torch.randn(1, 1, 4, *SPATIAL[rank])
    for layer in (TORCH[rank](4), OURS[rank](4)):
        with pytest.raises(ValueError, match=rf"expected {rank + 1}D or {rank + 2}D input \(got {rank + 3}D input\)"):
            layer(x)


def test_a_residual_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="residual has shape"):
        InstanceNormAct2d(3)(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 1))


# ---- as a module among others


def test_repr() -> None:
    """Torch's own, which grows with its versions, and the activation."""
    arguments = repr(nn.InstanceNorm3d(4, affine=True)).removeprefix("InstanceNorm3d(").removesuffix(")")
    expected = f"InstanceNormAct3d({arguments}, activation=leaky_relu, negative_slope=0.01)"
    assert repr(InstanceNormAct3d(4, affine=True)) == expected
    assert repr(InstanceNormAct1d(4, activation="relu")).endswith(", activation=relu)")
    arguments = repr(nn.GroupNorm(4, 4)).removeprefix("GroupNorm(").removesuffix(")")
    assert repr(GroupNormAct(4, 4, activation="none")) == f"GroupNormAct({arguments}, activation=none)"


@EVERY_LAYER
@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle", "torch.save"])
def test_copies_give_the_same(name: str, duplicate: str) -> None:
    ours, _, shape = pair(name, activation="leaky_relu", negative_slope=0.3)
    if duplicate == "deepcopy":
        other = copy.deepcopy(ours)
    elif duplicate == "pickle":
        other = pickle.loads(pickle.dumps(ours))
    else:
        file = io.BytesIO()
        torch.save(ours, file)
        other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    x = torch.randn(shape)
    assert type(other) is type(ours) and repr(other) == repr(ours)
    assert torch.equal(other(x), ours(x))
    assert all(a is not b for a, b in zip(other.parameters(), ours.parameters(), strict=True))


@EVERY_LAYER
def test_bfloat16_under_autocast(name: str) -> None:
    """A convolution hands over bfloat16; the layer keeps it, with its own parameters in float32."""
    ours, theirs, shape = pair(name, activation="none")
    convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)](5, 5, 1)
    x = torch.randn(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ours(convolution(x))
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
    for parameter in ours.parameters():
        assert parameter.dtype == torch.float32 and parameter.grad is not None
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        convolved = convolution(x)
    torch.testing.assert_close(y.float(), theirs(convolved.float()), rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_parameters(dtype: torch.dtype) -> None:
    ours, theirs, shape = pair("3d", activation="none")
    x = torch.randn(shape).to(dtype)
    y = ours.to(dtype)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), theirs(x.float()), rtol=2**-6, atol=2**-6)


@EVERY_LAYER
@pytest.mark.parametrize("with_residual", [False, True])
def test_compile_without_a_break(name: str, with_residual: bool) -> None:
    torch._dynamo.reset()
    ours, _, shape = pair(name)
    compiled = torch.compile(ours, fullgraph=True)
    x = torch.randn(shape, requires_grad=True)
    args: tuple[Tensor, ...] = (x, torch.randn(shape)) if with_residual else (x,)
    inputs, grad = [x, *ours.parameters()], torch.randn(shape)
    y, expected = compiled(*args), ours(*args)
    torch.testing.assert_close(y, expected)
    ours_grads, expected_grads = (torch.autograd.grad(result, inputs, grad) for result in (y, expected))
    for a, b in zip(ours_grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b)


@RANKS
def test_compile_of_unbatched_input(rank: int) -> None:
    torch._dynamo.reset()
    ours, _, (_, *shape) = pair(f"{rank}d")
    x = torch.randn(shape)
    torch.testing.assert_close(torch.compile(ours, fullgraph=True)(x), ours(x))
