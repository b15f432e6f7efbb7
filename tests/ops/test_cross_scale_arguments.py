"""cross_scale_aggregate: its guides, its arrays, and its errors by message."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.ops import cross_scale, cross_scale_aggregate, cross_scale_shapes, guided_filter
from tests.support import DTYPES, assert_within_budget

SIZE = (5, 12, 17)
FILTER = {"radius": 2, "eps": 1e-2}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def full_size(*shape: int) -> list[Tensor]:
    return [random(*(shape or SIZE), seed=s) for s in range(4)]


def pyramid(*shape: int) -> list[Tensor]:
    return [random(*level.shape, seed=s) for s, level in enumerate(cross_scale_shapes(shape or SIZE, 4))]


@pytest.fixture
def filtered(monkeypatch):
    """Shapes of what the guided filter is called with."""
    shapes = []

    def counting(guide: Tensor, src: Tensor, **parameters: object) -> Tensor:
        shapes.append(tuple(src.shape))
        return guided_filter(guide, src, **parameters)

    monkeypatch.setattr(cross_scale, "guided_filter", counting)
    return shapes


# ---- guides ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", ("truncate", "reflect", "reflect_101"))
@pytest.mark.parametrize(
    ("shape", "guide_shape"),
    ((SIZE, SIZE[1:]), (SIZE, (3, *SIZE[1:])), ((2, *SIZE), (1, *SIZE[1:])), ((2, *SIZE), (2, 3, *SIZE[1:]))),
)
def test_one_guide_filters_once_and_gives_the_same(shape, guide_shape, border, filtered):
    costs, guide = full_size(*shape), random(*guide_shape, seed=9)
    short = cross_scale_aggregate(costs, guide=guide, border=border, **FILTER)
    assert filtered == [shape]
    levels = [guided_filter(guide, cost, border=border, **FILTER) for cost in costs]
    torch.testing.assert_close(short, cross_scale_aggregate(levels), rtol=0, atol=1e-12)
    long = reference.cross_scale_aggregate(costs, guide=guide, border=border, **FILTER)
    torch.testing.assert_close(short, long, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", (full_size, pyramid))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_guides_beside_every_dtype(dtype, levels):
    costs = [cost.to(dtype) for cost in levels()]
    guides = random(3, *SIZE[1:], seed=9)
    if levels is pyramid:
        guides = [random(3, *cost.shape[1:], seed=9) for cost in costs]
    actual = cross_scale_aggregate(costs, guide=guides, **FILTER)
    assert actual.dtype == dtype
    exact = reference.cross_scale_aggregate([cost.double() for cost in costs], guide=guides, **FILTER)
    assert_within_budget(actual, exact, reference.cross_scale_aggregate(costs, guide=guides, **FILTER))


def test_the_same_guide_several_times_is_one(filtered):
    costs, guide = full_size(), random(3, *SIZE[1:], seed=9)
    one = cross_scale_aggregate(costs, guide=guide, **FILTER)
    assert torch.equal(cross_scale_aggregate(costs, guide=[guide] * 4, **FILTER), one)
    assert len(filtered) == 2
    several = cross_scale_aggregate(costs, guide=[guide.clone() for _ in costs], **FILTER)
    assert len(filtered) == 2 + 4
    torch.testing.assert_close(several, one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", (full_size, pyramid))
def test_a_guide_for_each_level(levels, filtered):
    costs = levels()
    guides = [random(3, *cost.shape[1:], seed=10 + s) for s, cost in enumerate(costs)]
    actual = cross_scale_aggregate(costs, guide=guides, lambda_=0.7, **FILTER)
    assert filtered == [tuple(cost.shape) for cost in costs]
    by_hand = [guided_filter(guide, cost, **FILTER) for guide, cost in zip(guides, costs, strict=True)]
    torch.testing.assert_close(actual, cross_scale_aggregate(by_hand, lambda_=0.7), rtol=0, atol=1e-14)
    expected = reference.cross_scale_aggregate(costs, guide=guides, lambda_=0.7, **FILTER)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    with fastseg.backend("reference"):
        assert torch.equal(cross_scale_aggregate(costs, guide=guides, lambda_=0.7, **FILTER), expected)


def test_one_level_with_its_guide():
    cost, guide = random(*SIZE), random(*SIZE[1:], seed=9)
    filtered = guided_filter(guide, cost, **FILTER)
    for guides in (guide, [guide]):
        assert torch.equal(cross_scale_aggregate([cost], guide=guides, **FILTER), filtered)


@pytest.mark.parametrize("levels", (full_size, pyramid))
def test_gradients_of_levels_and_guides(levels):
    costs = [cost.requires_grad_() for cost in levels(3, 4, 5)]
    if levels is full_size:
        guides = [random(4, 5, seed=9).requires_grad_()]
    else:
        guides = [random(*cost.shape[1:], seed=9).requires_grad_() for cost in costs]

    def function(*tensors: Tensor) -> Tensor:
        guide = tensors[4] if len(tensors) == 5 else tensors[4:]
        return cross_scale_aggregate(tensors[:4], guide=guide, radius=1, eps=0.1)

    assert torch.autograd.gradcheck(function, (*costs, *guides))


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", (full_size, pyramid))
@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.float16))
def test_numpy(dtype, levels):
    costs = [cost.numpy().astype(dtype) for cost in levels()]
    result = cross_scale_aggregate(costs)
    assert isinstance(result, np.ndarray) and result.dtype == dtype
    expected = cross_scale_aggregate([torch.from_numpy(cost) for cost in costs])
    assert np.array_equal(result, expected.numpy())
    mirrored = [cost[..., ::-1] for cost in costs]
    assert np.array_equal(cross_scale_aggregate(mirrored), cross_scale_aggregate([cost.copy() for cost in mirrored]))


def test_numpy_with_a_guide():
    costs, guide = [cost.numpy() for cost in full_size()], random(*SIZE[1:], seed=9).numpy()
    result = cross_scale_aggregate(costs, guide=guide, **FILTER)
    assert isinstance(result, np.ndarray)
    expected = cross_scale_aggregate(full_size(), guide=torch.from_numpy(guide), **FILTER)
    assert np.array_equal(result, expected.numpy())


def test_files_beside_arrays(tmp_path):
    costs = [cost.numpy() for cost in full_size()]
    np.save(tmp_path / "cost.npy", costs[0])
    mapped = [np.load(tmp_path / "cost.npy", mmap_mode="r"), *costs[1:]]
    assert np.array_equal(cross_scale_aggregate(mapped), cross_scale_aggregate(costs))


def test_parameters_beside_tensors():
    costs = full_size()
    learnt = [torch.nn.Parameter(costs[0]), *costs[1:]]
    assert torch.equal(cross_scale_aggregate(learnt), cross_scale_aggregate(costs))


# ---- errors ----------------------------------------------------------------------------------------------------------


def spoiled(levels: list[Tensor], s: int, value: float = float("nan")) -> list[Tensor]:
    levels[s][1, 1, 2] = value
    return levels


def message_cases():
    image, levels = random(12, 17), full_size()
    return (
        (TypeError, {"costs": torch.stack(levels)}, r"costs is a Tensor, expected a list or tuple of cost volumes"),
        (TypeError, {"costs": [[1.0]]}, r"costs\[0\] is a list, expected a NumPy, CuPy or torch array"),
        (ValueError, {"costs": []}, "costs has 0 levels, expected 1 to 16"),
        (ValueError, {"costs": levels * 5}, "costs has 20 levels, expected 1 to 16"),
        (TypeError, {"costs": [*levels, levels[0].numpy()]}, r"costs\[4\] is a ndarray, expected a Tensor"),
        (TypeError, {"costs": [levels[0].byte()]}, r"costs\[0\] is torch.uint8, expected float32"),
        (TypeError, {"costs": [levels[0], levels[1].float()]}, r"costs\[1\] is torch.float32, expected costs\[0\]'s"),
        (ValueError, {"costs": [levels[0], levels[1].to("meta")]}, r"costs\[1\] is on meta, expected costs\[0\]'s"),
        (ValueError, {"costs": [image]}, r"costs\[0\] has shape \(12, 17\), expected \(D, H, W\) or \(B, D, H, W\)"),
        (ValueError, {"costs": [random(0, 4, 5)]}, r"costs\[0\] has shape \(0, 4, 5\), expected .* at least one"),
        (
            ValueError,
            {"costs": [levels[0], random(3, 6, 8)]},
            r"costs\[1\] has shape \(3, 6, 8\), expected \(D, 6, 9\) with D >= 3, disparities from 0 on, as level 1 of "
            r"a pyramid over costs\[0\] of shape \(5, 12, 17\) .*, or costs\[0\]'s shape for every level",
        ),
        (ValueError, {"costs": [levels[0], random(2, 6, 9)]}, r"costs\[1\] has shape \(2, 6, 9\), expected .* D >= 3"),
        (ValueError, {"costs": [random(1, 6, 2, 2), random(1, 3, 1, 1)]}, r"costs\[1\] .* \(1, D, 1, 1\) with D >= 4"),
        (ValueError, {"costs": [random(2, *SIZE), random(3, 6, 9)]}, r"costs\[1\] .* expected \(2, D, 6, 9\)"),
        (ValueError, {"costs": [*pyramid()[:3], random(9, 9, 9)]}, r"costs\[3\] .* expected \(D, 2, 3\) with D >= 2"),
        (ValueError, {"costs": spoiled(full_size(), 2)}, r"costs\[2\] has 1 values .* the first at \(1, 1, 2\)"),
        (ValueError, {"costs": spoiled(pyramid(), 1, float("inf"))}, r"costs\[1\] has 1 values that are NaN or infi"),
        (ValueError, {"costs": spoiled(full_size(), 0), "guide": image}, r"costs\[0\] has 1 values that are NaN"),
        (ValueError, {"costs": spoiled(full_size(), 3), "guide": [image + s for s in range(4)]}, r"costs\[3\] has 1"),
        (ValueError, {"lambda_": -0.1}, "lambda_ is -0.1, expected a number from 0 to 1e"),
        (ValueError, {"lambda_": float("nan")}, "lambda_ is nan"),
        (ValueError, {"min_disparity": 0.5}, "min_disparity is 0.5, expected a whole number"),
        (ValueError, {"min_disparity": 1 << 40}, "min_disparity is 1099511627776, expected a whole number"),
        (ValueError, {"guide": [image] * 3}, "guide has 3 images, expected 4, one for each level of costs"),
        (ValueError, {"costs": pyramid(), "guide": image}, "guide is one array, expected a sequence of 4"),
        (ValueError, {"guide": random(12, 18)}, r"guide has shape \(12, 18\), expected costs\[0\]'s image size"),
        (ValueError, {"guide": [image, image, image.mT, image]}, r"guide\[2\] has shape \(17, 12\), expected"),
        (TypeError, {"guide": image.long()}, "guide is torch.int64, expected float32"),
        (TypeError, {"guide": "left"}, "guide is a str, expected a NumPy, CuPy or torch array"),
        (ValueError, {"guide": image / 0}, "guide has 204 values that are NaN or infinite"),
        (ValueError, {"guide": [image, image, image, image / 0]}, r"guide\[3\] has 204 values that are NaN"),
        (ValueError, {"guide": image, "radius": -1}, "radius is -1, expected a whole number"),
        (ValueError, {"guide": image, "eps": 0.0}, "eps is 0.0, expected a finite number > 0"),
        (ValueError, {"guide": image, "border": "wrap"}, "border is 'wrap', expected one of 'truncate'"),
    )


@pytest.mark.parametrize(("error", "change", "message"), message_cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_errors(error, change, message):
    with pytest.raises(error, match=f"^cross_scale_aggregate: {message}"):
        cross_scale_aggregate(**{"costs": full_size(), **change})


@pytest.mark.parametrize("backend", ("cpu", "reference"))
@pytest.mark.parametrize("levels", (full_size, pyramid))
@pytest.mark.parametrize("value", (float("nan"), float("inf"), -float("inf")))
def test_numbers_that_are_none_are_found_anywhere(value, levels, backend):
    for s in range(4):
        costs = levels()
        costs[s].view(-1)[-1] = value
        with fastseg.backend(backend), pytest.raises(ValueError, match=rf"costs\[{s}\] has 1 values"):
            cross_scale_aggregate(costs, lambda_=0.0)


def test_results_that_overflow_are_no_error():
    """No cost is infinite: the difference of two of them is."""
    costs = [torch.full((1, 2, 3), 3e38), torch.full((1, 2, 3), -3e38)]
    assert cross_scale_aggregate(costs).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (((4, 5), 3), r"shape is \(4, 5\), expected \(D, H, W\) or \(B, D, H, W\)"),
        (((4, 0, 5), 3), r"shape is \(4, 0, 5\), expected"),
        (((4, 5, 6), 0), "levels is 0, expected a whole number from 1 to 16"),
        (((4, 5, 6), 2.5), "levels is 2.5, expected a whole number from 1 to 16"),
        (((4, 5, 6), 3, 0.5), "min_disparity is 0.5, expected a whole number"),
    ),
)
def test_errors_of_shapes(arguments, message):
    with pytest.raises(ValueError, match=f"^cross_scale_shapes: {message}"):
        cross_scale_shapes(*arguments)
