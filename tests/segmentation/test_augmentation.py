"""Turns of test-time augmentation: all of them, each once, undone exactly, averaged with one prediction at a time."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch
from torch import Tensor

from fastseg.segmentation.augmentation import KINDS, Turn, averaged, turns


def numbered(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


@pytest.mark.parametrize(
    ("kind", "dims", "count"),
    [
        (None, 3, 1),
        (None, 2, 1),
        ("flips", 3, 8),
        ("flips", 2, 4),
        ("flips_rotations", 3, 16),
        ("flips_rotations", 2, 8),
    ],
)
def test_each_view_is_there_once(kind: str | None, dims: int, count: int) -> None:
    x = numbered(1, 1, *(3,) * dims)
    views = {tuple(way.apply(x).flatten().tolist()) for way in turns(kind, dims)}
    assert len(turns(kind, dims)) == len(views) == count
    assert turns(kind, dims)[0] == Turn()


def test_flips_and_rotations_are_all_of_them() -> None:
    """Eight flips times four rotations are sixteen views, each twice, so the mean over 32 is that over 16."""
    x = numbered(1, 1, 3, 3, 3)
    views = {tuple(way.apply(x).flatten().tolist()) for way in turns("flips_rotations", 3)}
    every = [
        tuple(torch.rot90(x.flip(axes), quarter, (2, 3)).flatten().tolist())
        for count in range(4)
        for axes in itertools.combinations((2, 3, 4), count)
        for quarter in range(4)
    ]
    assert all(every.count(view) == 2 for view in views) and set(every) == views


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (2, 3, 4, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_undone_exactly(shape: tuple[int, ...], kind: str) -> None:
    x = torch.randn(shape)
    for way in turns(kind, len(shape) - 2):
        torch.testing.assert_close(way.undo(way.apply(x)), x, rtol=0, atol=0)


def test_quarter_turns_are_in_the_axial_plane() -> None:
    x = torch.randn(1, 2, 4, 5, 6)
    turned = Turn(quarter_turns=1).apply(x)
    assert turned.shape == (1, 2, 5, 4, 6)
    for z in range(6):
        torch.testing.assert_close(turned[..., z], torch.rot90(x[..., z], 1, (2, 3)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (2, 3, 4, 7)])
def test_an_equivariant_network_is_left_alone(kind: str | None, shape: tuple[int, ...]) -> None:
    x = torch.randint(-99, 99, shape).float()  # whole numbers: their sums are exact
    ways = turns(kind, len(shape) - 2)
    torch.testing.assert_close(averaged(lambda y: 2 * y + 1, x, ways), 2 * x + 1, rtol=0, atol=0)


def test_the_mean_of_all_views() -> None:
    weight = torch.randn(4, 3, 3, 3, 3)  # no symmetry

    def predict(x: Tensor) -> Tensor:
        return torch.nn.functional.conv3d(x, weight, padding=1)

    x = torch.randn(1, 3, 4, 5, 6)
    ways = turns("flips_rotations", 3)
    expected = torch.stack([way.undo(predict(way.apply(x))) for way in ways]).mean(0)
    torch.testing.assert_close(averaged(predict, x, ways), expected)
    assert (expected - predict(x)).abs().max() > 0.1


def test_one_prediction_at_a_time_and_the_input_untouched() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def predict(x: Tensor) -> Tensor:
        nonlocal most
        result = x * 2
        alive.append(weakref.ref(result))
        gc.collect()
        most = max(most, sum(reference() is not None for reference in alive))
        return result

    x = torch.randn(1, 1, 4, 4, 4)
    before = x.clone()
    averaged(predict, x, turns("flips", 3))
    assert len(alive) == 8 and most <= 2
    averaged(lambda y: y, x, turns("flips", 3))  # a network may hand its input back
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="augment is 'twist', expected None or one of 'flips', 'flips_rotations'"):
        turns("twist", 3)
