"""The Triton kernels of the losses against float64; in the interpreter, see test_triton_norm.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton

import fastseg
from fastseg.backends.triton import loss as losses
from fastseg.ops import dice_cross_entropy, generalized_dice
from tests.backends.interpreter import DEVICE, INTERPRETED, runs_kernels
from tests.ops.test_loss import LABELS, LOSSES, OUTPUTS, PLACES, REGIONS, defined, drawn, gradients, slopes_of
from tests.support import DTYPES, LAYOUTS, assert_within_budget, in_layout, pairwise, poison, rerun

#: How the sums are split: tiles of a program, programs, steps of the second kernel, and parts that torch adds.
SPLITS = ("one tile", "several tiles", "several programs", "many programs")


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_everything_here_in_the_interpreter() -> None:
    rerun(__file__, TRITON_INTERPRET="1")


def split(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "one tile":
        return
    monkeypatch.setattr(losses, "tile_of", lambda k, *_: losses.Tile(triton.next_power_of_2(k), 16, 1))
    monkeypatch.setattr(losses, "PROGRAMS", {"several tiles": 1, "several programs": 6, "many programs": 660}[how])
    monkeypatch.setattr(losses, "FORMULA_ELEMENTS", 32)
    monkeypatch.setattr(losses, "FORMULA_SLOTS", 0 if how == "many programs" else 64 * 1024)


@pytest.fixture(params=SPLITS)
def splits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    split(request.param, monkeypatch)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, torch, "empty_like")
    poison(monkeypatch, torch.Tensor, "new_empty")


def launched(function: Callable[..., Tensor], logits: Tensor, target: Tensor) -> list[Tensor]:
    with fastseg.backend("triton"):
        return [t.cpu() for t in gradients(function, logits.to(DEVICE), target.to(DEVICE))]


def slope_of_entropy(function: Callable[..., Tensor], logits: Tensor, target: Tensor) -> float:
    """The largest by the logarithm of a probability: w in w (p - r), where a sure p cancels with its truth."""
    kept: list[Tensor] = []
    log_softmax = torch.nn.functional.log_softmax

    def keeping(*arguments: Any) -> Tensor:
        kept.append(log_softmax(*arguments))
        kept[-1].retain_grad()
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch, fastseg.backend("reference"):
        patch.setattr(torch.nn.functional, "log_softmax", keeping)
        function(logits.double().detach().requires_grad_(), target).backward()
    return max((p.grad.abs().max().item() for p in kept if p.grad is not None), default=0.0)


def check(function: Callable[..., Tensor], logits: Tensor, target: Tensor, what: str = "") -> None:
    ours, peer = launched(function, logits, target), defined(function, logits, target)
    exact = defined(function, logits.double(), target)
    assert ours[0].dtype == torch.promote_types(logits.dtype, torch.float32) and ours[0].shape == ()
    assert ours[1].dtype == logits.dtype
    assert_within_budget(ours[0], exact[0], peer[0], f"loss {what}", terms=1.0)
    terms = max(slopes_of(function, logits, target), slope_of_entropy(function, logits, target))
    assert_within_budget(ours[1], exact[1], peer[1], f"dlogits {what}", terms=terms)


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@runs_kernels
@pytest.mark.parametrize(
    ("name", "dtype", "layout", "output", "splits"),
    pairwise(LOSSES, DTYPES, LAYOUTS, OUTPUTS, SPLITS),
    indirect=["splits"],
    ids=str,
)
@pytest.mark.usefixtures("splits")
def test_dtypes_layouts_and_losses(name, dtype, layout, output):
    check(partial(LOSSES[name], output=output), *drawn((2, 5, 9, 11), output, dtype, layout))


@runs_kernels
@pytest.mark.parametrize(
    ("shape", "layout", "output", "name"),
    pairwise(
        (
            (2, 3, 7),
            (1, 1, 1),
            (2, 1, 5, 9),
            (3, 2, 1, 37),
            (1, 17, 2, 3),
            (2, 4, 8, 8, 8),  # whole vectors of 16 bytes
            (1, 2, 3, 2, 3, 2),
            (1, 3, 70, 71),  # more than one tile as it is chosen
            (2, 300, 3, 5),
            (1, 1024, 1, 4),
        ),
        ("contiguous", "channels_last"),
        OUTPUTS,
        ("dice + cross-entropy", "generalized dice", "focal tversky"),
    ),
    ids=str,
)
def test_shapes(shape, layout, output, name):
    check(partial(LOSSES[name], output=output), *drawn(shape, output, layout=layout))


@runs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("classes", "output"), ((8, "softmax"), (16, "softmax"), (40, "softmax"), (5, "sigmoid")))
def test_tiles_of_every_width(classes, output, dtype):
    """Threads with all classes of their voxels, those with half a vector of them, and classes over several threads."""
    check(partial(dice_cross_entropy, output=output), *drawn((1, classes, 12, 16), output, dtype))


@runs_kernels
@pytest.mark.parametrize(
    ("name", "background", "batch", "output"), pairwise(LOSSES, (False, True), (False, True), OUTPUTS)
)
def test_groups_and_background(name, background, batch, output, monkeypatch):
    split("several programs", monkeypatch)
    function = partial(LOSSES[name], output=output, include_background=background, batch=batch)
    check(function, *drawn((5, 3, 40), output))


@runs_kernels
@pytest.mark.parametrize("how", SPLITS[1:])
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_same_from_any_split_and_every_time(output, how, monkeypatch):
    inputs = drawn((2, 4, 14, 15), output)
    function = partial(dice_cross_entropy, output=output)
    whole = launched(function, *inputs)
    assert same(launched(function, *inputs), whole)
    split(how, monkeypatch)
    parts = launched(function, *inputs)
    assert same(launched(function, *inputs), parts)
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@runs_kernels
def test_a_long_program_begins_a_new_slot(monkeypatch):
    monkeypatch.setattr(losses, "PROGRAMS", 1)
    monkeypatch.setattr(losses, "MOST_TILES", 2)
    assert [losses.tiles_of_program(3, tiles) for tiles in (1, 2, 100)] == [1, 2, 2]
    check(dice_cross_entropy, *drawn((1, 3, 50, 61), "softmax"))


@runs_kernels
@pytest.mark.parametrize("dtype", LABELS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_maps_of_classes(dtype, place):
    logits, target = drawn((2, 4, 8, 12), "softmax")
    if place == "expanded":
        target = target[:, :1, :1].expand(target.shape)
    expected = launched(dice_cross_entropy, logits, target)
    target = PLACES[place](target.to(dtype))
    assert same(launched(dice_cross_entropy, logits, target), expected)


@runs_kernels
@pytest.mark.parametrize("dtype", REGIONS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ((2, 3, 9, 11), (2, 4, 8, 8)), ids=str)
def test_regions(shape, layout, dtype):
    logits, target = drawn(shape, "sigmoid")
    function = partial(dice_cross_entropy, output="sigmoid")
    expected = launched(function, logits, target)
    moved = in_layout(target.float(), layout).to(dtype) if layout == "channel_slice" else in_layout(target, layout)
    for logits_layout in ("contiguous", "channels_last"):
        found = launched(function, in_layout(logits, logits_layout), moved.to(dtype))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@runs_kernels
@pytest.mark.parametrize("name", LOSSES)
def test_soft_regions(name):
    logits, target = drawn((2, 3, 9, 11), "sigmoid")
    check(partial(LOSSES[name], output="sigmoid"), logits, 0.25 + 0.5 * target.float())


@runs_kernels
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ignored", (-1, 1, 2, 255))
def test_ignored_voxels_count_nowhere(name, ignored):
    logits, target = drawn((2, 4, 10, 11), "softmax")
    where = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    function = partial(LOSSES[name], ignore_index=ignored)
    target[where] = ignored
    check(function, logits, target)
    before = launched(function, logits, target)
    logits.movedim(1, -1)[target == ignored] = float("nan")
    assert same(launched(function, logits, target), before)
    assert not before[1].movedim(1, -1)[target == ignored].any()


@runs_kernels
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_counts(name):
    logits, target = drawn((2, 4, 5, 6), "softmax")
    loss, dlogits = launched(partial(LOSSES[name], ignore_index=7), logits, torch.full_like(target, 7))
    assert loss == (pytest.approx(1e-7**0.75) if name == "focal tversky" else 0) and not dlogits.any()


@runs_kernels
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", ("balanced", torch.tensor([3.0, 1.0, 0.0, 0.25])), ids=("balanced", "given"))
def test_class_weights(name, weights):
    logits, target = drawn((2, 4, 9, 11), "softmax")
    weights = weights if isinstance(weights, str) else weights.to(DEVICE)
    function = partial(LOSSES[name], class_weights=weights)
    check(function, logits, target)
    check(function, logits, torch.where(target == 2, 0, target))


@runs_kernels
def test_all_weights_of_a_batch_zero():
    logits, target = drawn((2, 4, 9, 11), "softmax")
    function = partial(dice_cross_entropy, dice_weight=0.0, class_weights=(0, 1, 1, 1))
    loss, dlogits = launched(function, logits, torch.zeros_like(target))
    assert loss == 0 and not dlogits.any()


@runs_kernels
@pytest.mark.parametrize(
    ("name", "output", "scale", "truth"), pairwise(LOSSES, OUTPUTS, (0.0, 1.0, 500.0), ("empty", "full", "own"))
)
def test_gradients_are_finite_at_the_edges(name, output, scale, truth):
    logits, target = drawn((2, 4, 5, 7), output)
    if truth == "own":
        target = logits > 0 if output == "sigmoid" else logits.argmax(1)
    else:
        target = torch.full_like(target, 0 if truth == "empty" else 1 if output == "sigmoid" else 3)
    function = partial(LOSSES[name], output=output)
    check(function, scale * logits, target)
    assert all(torch.isfinite(t).all() for t in launched(function, scale * logits, target))


@runs_kernels
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_nan_and_infinite_logits(name, output):
    logits, target = drawn((2, 3, 50), output)
    function = partial(LOSSES[name], output=output)
    logits[0, 1, 3] = -float("inf")
    if output == "softmax":
        target[0, 3] = 0
    else:
        target[0, 1, 3] = False
    found, expected = launched(function, logits, target)[0], defined(function, logits, target)[0]
    torch.testing.assert_close(found, expected, equal_nan=True)
    logits[0, 1, 3] = float("nan")
    assert launched(function, logits, target)[0].isnan()


@runs_kernels
def test_sure_predictions():
    """Whose entropy is small: the logarithm of a number just above one."""
    logits, _ = drawn((1, 3, 60, 61), "softmax")
    target = logits.argmax(1)
    logits.scatter_(1, target[:, None], 9 + logits.amax(1, keepdim=True))
    check(partial(dice_cross_entropy, dice_weight=0.0), logits, target)


WRONG = {
    "above": ("softmax", 4),
    "below": ("softmax", -1),
    "between": ("softmax", 1.5),
    "NaN as a class": ("softmax", float("nan")),
    "infinite": ("softmax", float("inf")),
    "large": ("sigmoid", 2.0),
    "negative": ("sigmoid", -0.5),
    "NaN": ("sigmoid", float("nan")),
}


@runs_kernels
@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("name", ("dice", "cross-entropy", "generalized dice"))
def test_a_truth_that_is_none_makes_the_loss_nan(name, case):
    """Also in the background, where the overlap does not count it."""
    output, value = WRONG[case]
    logits, target = drawn((2, 4, 9, 11), output)
    target = target if isinstance(value, int) else target.float()
    target.view(-1)[5] = value
    function = partial(LOSSES[name], output=output, include_background=False)
    with torch.no_grad(), fastseg.backend("triton"):
        assert function(logits.to(DEVICE), target.to(DEVICE)).isnan()


@runs_kernels
def test_upstream_gradient_and_layout():
    logits, target = drawn((2, 4, 6, 8), "softmax", layout="channels_last")
    once = launched(dice_cross_entropy, logits, target)[1]
    scaled = launched(lambda *t: 1024 * dice_cross_entropy(*t), logits, target)[1]
    assert once.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(1024 * once, scaled)


@runs_kernels
def test_more_classes_than_a_program_holds_are_refused():
    logits, target = (t.to(DEVICE) for t in drawn((1, 1025, 2), "softmax"))
    with (
        fastseg.backend("triton"),
        pytest.raises(fastseg.BackendError, match="logits have 1025 classes, this kernel takes 1024 at most"),
    ):
        generalized_dice(logits, target)
