"""The matcher: kinds of input, options, chunks, stages, and that it finds what is there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastseg
from fastseg import ops
from fastseg.stereo import (
    PRESETS,
    MatchingCost,
    Refinement,
    Stages,
    StereoMatcher,
    StereoPairError,
    WLSLevels,
    WLSRefinement,
    image_pyramid,
    rendered_pair,
)
from tests.support import for_thread_counts, picture

RANGE = 48


@pytest.fixture(scope="module")
def scene() -> Any:
    return rendered_pair(160, 208)


def shifted(shift: int, height: int = 70, width: int = 96, channels: int = 3, first: int = 12) -> tuple[Tensor, Tensor]:
    """A picture and the same one ``shift`` pixels further to the left, so that every disparity is ``shift``."""
    wide = picture(channels, height, width + 2 * first)
    return wide[..., first : first + width].contiguous(), wide[..., first + shift : first + shift + width].contiguous()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shift", [0, 3, 7])
def test_finds_one_shift(preset: str, shift: int) -> None:
    found = StereoMatcher.preset(preset, max_disparity=10, check_input=False).match(*shifted(shift))
    inside = found.disparity[:, 12:]
    assert (inside - shift).abs().median() < 0.05
    assert (inside - shift).abs().max() < 0.5
    assert found.valid[:, 12:].float().mean() > 0.95


@pytest.mark.parametrize(
    ("preset", "bad", "average"), [("fast", 0.045, 0.35), ("accurate", 0.04, 0.32), ("paper", 0.05, 0.4)]
)
def test_rendered_scene(scene: Any, preset: str, bad: float, average: float) -> None:
    found = StereoMatcher.preset(preset, max_disparity=RANGE).match(scene.left, scene.right)
    error = np.abs(found.disparity - scene.disparity)[~scene.occluded]
    assert (error > 1).mean() < bad
    assert error.mean() < average
    # What both views agree on is better than the rest, and the surer the better.
    assert (error[found.valid[~scene.occluded]] > 1).mean() < 0.8 * (error > 1).mean()
    sure = found.confidence > np.median(found.confidence)
    wrong = np.abs(found.disparity - scene.disparity) > 1
    assert wrong[sure].mean() < 0.5 * wrong[~sure].mean()
    assert found.confidence[~found.valid].max() == 0


def test_negative_and_offset_ranges() -> None:
    left, right = shifted(5)
    assert StereoMatcher(np.int64(9), levels=4.0, min_disparity=-2.0) == StereoMatcher(9, min_disparity=-2)
    for low, high in ((-4, 9), (3, 8), (5, 6)):
        found = StereoMatcher(high, min_disparity=low, check_input=False).match(left, right)
        assert (found.disparity[:, 12:] - 5).abs().median() < 0.05
    backwards = StereoMatcher(4, min_disparity=-9).match(right, left)  # swapped on purpose: a range that says so
    assert (backwards.disparity[:, :-12] + 5).abs().median() < 0.05


@pytest.mark.parametrize("preset", PRESETS)
def test_little_memory_changes_nothing_but_roundings(scene: Any, preset: str) -> None:
    matcher = StereoMatcher.preset(preset, max_disparity=RANGE)
    whole = matcher.match(scene.left, scene.right)
    little = replace(matcher, memory_limit=12 * 4 * 160 * 208 * 6).match(scene.left, scene.right)
    assert np.array_equal(whole.valid, little.valid)
    np.testing.assert_allclose(little.disparity, whole.disparity, rtol=0, atol=1e-4)
    np.testing.assert_allclose(little.confidence, whole.confidence, rtol=0, atol=1e-5)


def test_memory_stays_within_its_limit() -> None:
    """The volumes of this pair take 160 MB together; with 32 MB for them the process grows by half of that."""
    program = """
        import resource, torch
        from fastseg.stereo import StereoMatcher
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pair = torch.rand(2, 3, 400, 600)
        matcher = StereoMatcher(96, memory_limit=32 << 20, check_input=False)
        matcher.match(*pair[..., :64, :130])
        before = peak()
        matcher.match(*pair)
        print(peak() - before)
    """
    grown = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 85 << 20


def test_batches_are_pairs_one_by_one() -> None:
    pairs = [shifted(shift, channels=1) for shift in (2, 6)]
    left, right = (torch.stack(images) for images in zip(*pairs, strict=True))
    matcher = StereoMatcher(9)
    both = matcher.match(left, right)
    assert both.disparity.shape == (2, 70, 96)
    for i, pair in enumerate(pairs):
        one = matcher.match(*pair)
        assert torch.equal(both.disparity[i], one.disparity) and torch.equal(both.valid[i], one.valid)


def test_kinds_layouts_and_dtypes_mean_the_same() -> None:
    bytes_ = [(255 * image).round().to(torch.uint8) for image in shifted(4)]
    expected = StereoMatcher(8).match(*(image.float() / 255 for image in bytes_))
    assert isinstance(expected.disparity, Tensor) and expected.disparity.dtype == torch.float32
    assert expected.valid.dtype == torch.bool and expected.confidence.dtype == torch.float32
    forms = {
        "bytes": bytes_,
        "numpy": [image.numpy() for image in bytes_],
        "height, width, colours": [image.permute(1, 2, 0).numpy() for image in bytes_],
        "16 bits": [(image.numpy().astype(np.uint16) * 257) for image in bytes_],
        "float64": [image.double() / 255 for image in bytes_],
        "batch, colours last": [image.permute(1, 2, 0)[None] for image in bytes_],
        "every second row": [image.repeat_interleave(2, 1)[:, ::2] for image in bytes_],
        "turned twice": [image.numpy()[:, ::-1].copy()[:, ::-1] for image in bytes_],
    }
    for name, pair in forms.items():
        found = StereoMatcher(8).match(*pair)
        assert isinstance(found.disparity, type(pair[0])), name
        values = torch.as_tensor(found.disparity).reshape(expected.disparity.shape)
        assert torch.equal(values, expected.disparity), name
        assert torch.equal(torch.as_tensor(found.valid).reshape(values.shape), expected.valid), name


@pytest.mark.parametrize("size", [(1, 9), (2, 17), (5, 3), (33, 31), (64, 100)])
@pytest.mark.parametrize("levels", [1, 4])
def test_any_size(size: tuple[int, int], levels: int) -> None:
    left, right = picture(*size), picture(*size, seed=1)
    found = StereoMatcher(min(3, size[1]), levels=levels, check_input=False).match(left, right)
    assert found.disparity.shape == size
    assert bool(torch.isfinite(found.disparity).all()) and bool(torch.isfinite(found.confidence).all())
    assert float(found.disparity.min()) >= 0 and float(found.disparity.max()) <= 2.5


@pytest.mark.parametrize("options", [{}, {"wls": WLSLevels()}, {"cost": MatchingCost("ad_census")}, {"levels": 1}])
def test_backends_agree(options: dict[str, Any]) -> None:
    pair = shifted(4, 40, 56)
    found = StereoMatcher(8, **options).match(*pair)
    with fastseg.backend("reference"):
        plain = StereoMatcher(8, **options).match(*pair)
    assert ((found.disparity - plain.disparity).abs() > 1e-3).float().mean() < 0.01


def test_options_change_what_they_say(scene: Any) -> None:
    base = StereoMatcher(RANGE, levels=2)

    def run(**refine: Any) -> np.ndarray:
        return replace(base, refine=Refinement(**refine)).match(scene.left, scene.right).disparity

    whole = run(subpixel=False, smooth=False)
    assert np.array_equal(whole, whole.round())
    assert not np.array_equal(run(smooth=False), whole)
    assert not np.array_equal(run(subpixel=False, smooth=False, median_radius=0), whole)
    strict = replace(base, refine=Refinement(left_right_tolerance=0.0)).match(scene.left, scene.right)
    assert strict.valid.sum() < base.match(scene.left, scene.right).valid.sum()


def costs_at(best: int, image: Tensor, first: int, last: int) -> Tensor:
    each = (torch.arange(first, last) - best).abs().float()
    return each[None, :, None, None].expand(image.shape[0], last - first, *image.shape[-2:])


def test_every_stage_can_be_replaced() -> None:
    called: list[str] = []

    def spy(name: str, function: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            called.append(name)
            return function(*args, **options)

        return run

    plain = Stages()
    names = ("winner", "check", "fill", "median", "offset", "confidence", "smooth", "wls")
    spies = {name: spy(name, getattr(plain, name)) for name in names}

    def costs(scales: Any, view: str, first: int, last: int) -> Tensor:
        called.append("costs")
        return ops.matching_cost(scales.left[0], scales.right[0], min_disparity=first, max_disparity=last, view=view)

    matcher = StereoMatcher(
        9, stages=Stages(costs=costs, **spies), refine=Refinement(wls=WLSRefinement()), check_input=False
    )
    found = matcher.match(*shifted(4))
    assert set(called) == {*names, "costs"}
    assert (found.disparity[:, 12:] - 4).abs().median() < 0.05
    at_seven = Stages(costs=lambda scales, view, first, last: costs_at(7, scales.left[0], first, last))
    alone = StereoMatcher(9, stages=at_seven, check_input=False).match(*shifted(4))
    assert (alone.disparity[:, 12:-12] - 7).abs().max() < 1e-4  # nothing else has a say
    zero = Stages(fill=lambda disparity, valid: torch.where(valid, disparity, 0.0))
    left = replace(matcher, stages=zero, refine=Refinement(median_radius=0, smooth=False)).match(*shifted(4))
    assert left.disparity[~left.valid].abs().max() == 0
    inside = ("matching_cost", "filter", "combine")
    called.clear()
    spies = {name: spy(name, getattr(plain, name)) for name in inside}
    spied = StereoMatcher(9, stages=Stages(**spies)).match(*shifted(4))
    assert set(called) == set(inside)
    assert torch.equal(spied.disparity, StereoMatcher(9).match(*shifted(4)).disparity)
    halves = Stages(scales=lambda left, right: image_pyramid(left, right, 2))
    two = StereoMatcher(9, stages=halves).match(*shifted(4))
    assert torch.equal(two.disparity, StereoMatcher(9, levels=2).match(*shifted(4)).disparity)


def test_numbers_of_other_stages_are_looked_at() -> None:
    def spoiled(*images: Tensor, **options: Any) -> Tensor:
        return ops.matching_cost(*images, **options).index_fill(-1, torch.tensor([5]), torch.nan)

    with pytest.raises(ValueError, match="NaN or infinite"):
        StereoMatcher(8, check_input=False, stages=Stages(matching_cost=spoiled)).match(*shifted(3))


def test_where_nothing_can_win_nothing_is_valid() -> None:
    def costs(scales: Any, view: str, first: int, last: int) -> Tensor:
        volume = costs_at(4, scales.left[0], first, last).clone()
        volume[..., 40:60] = torch.inf
        return volume

    found = StereoMatcher(9, stages=Stages(costs=costs), check_input=False).match(*shifted(4))
    assert not bool(found.valid[:, 40:60].any()) and float(found.confidence[:, 40:60].max()) == 0
    assert bool(torch.isfinite(found.disparity).all()) and bool(found.valid[:, 12:40].all())


@pytest.mark.parametrize("preset", PRESETS)
def test_areas_of_one_colour_are_not_sure(preset: str) -> None:
    flat = torch.full((80, 140), 0.5)
    found = StereoMatcher.preset(preset, max_disparity=20).match(flat, flat)
    # Right of where candidates lie outside the other image; windows reach further. WLS leaves its tolerance of 1e-5.
    assert float(found.confidence[:, 50:].max()) < (0.1 if preset == "paper" else 0.05)
    bordered = [image.clone() for image in shifted(4, width=140)]
    for image in bordered:
        image[..., 80:] = 0  # as rectification leaves it
    found = StereoMatcher.preset(preset, max_disparity=20).match(*bordered)
    assert float(found.confidence[:, 115:].median()) < 0.05 < float(found.confidence[:, 24:70].median())


def test_progress_and_seconds() -> None:
    seen: list[tuple[str, float]] = []
    matcher = StereoMatcher(40, memory_limit=4 * 70 * 96 * 4 * 14)
    found = matcher.match(*shifted(4), on_progress=lambda name, share: seen.append((name, share)))
    shares = [share for _, share in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 8
    assert {name for name, _ in seen} == set(found.seconds)
    assert all(seconds >= 0 for seconds in found.seconds.values())


def test_ops_called_by_on_progress_look_at_their_numbers() -> None:
    image = torch.ones(1, 8, 8)
    image[0, 0, 0] = torch.nan

    def call(name: str, share: float) -> None:
        ops.guided_filter(image, image.clone(), radius=1, eps=1e-3)

    with pytest.raises(ValueError, match="NaN"):
        StereoMatcher(8).match(*shifted(4), on_progress=call)


@pytest.mark.parametrize("levels", [1, 2])
def test_costs_that_are_no_numbers_are_refused(levels: int) -> None:
    """A window without texture loses so small an eps to rounding: zero over zero."""
    left = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    right = left.roll(-2, 2)
    left[:, :, :30] = 1.0
    right[:, :, :28] = 1.0
    with pytest.raises(ValueError, match=r"^StereoMatcher: costs has NaN"):
        StereoMatcher(6, radius=3, levels=levels, check_input=False, eps=1e-20).match(left, right)


def test_same_bits_for_any_number_of_threads(scene: Any) -> None:
    matcher = StereoMatcher(RANGE)
    found = for_thread_counts((1, 3), lambda: matcher.match(scene.left, scene.right))
    assert np.array_equal(found[0].disparity, found[1].disparity)
    assert np.array_equal(found[0].confidence, found[1].confidence)


def test_swapped_views_are_an_error(scene: Any) -> None:
    matcher = StereoMatcher(RANGE)
    with pytest.raises(StereoPairError, match="negative disparities dominate, left and right look swapped"):
        matcher.match(scene.right, scene.left)
    replace(matcher, check_input=False).match(scene.right, scene.left)


@pytest.mark.parametrize("rows", [-7, 6])
def test_unrectified_views_are_an_error(scene: Any, rows: int) -> None:
    moved = np.roll(scene.right, rows, axis=-2)
    where = "below" if rows > 0 else "above"
    with pytest.raises(StereoPairError, match=f"rows {where} in the right image, .* the pair is not rectified"):
        StereoMatcher(RANGE).match(scene.left, moved)


def test_one_bad_pair_of_a_batch_is_an_error(scene: Any) -> None:
    left, right = (torch.from_numpy(image) for image in (scene.left, scene.right))
    with pytest.raises(StereoPairError, match=r"pair 1: .* look swapped"):
        StereoMatcher(RANGE).match(torch.stack([left, right]), torch.stack([right, left]))
    with pytest.raises(StereoPairError, match=r"pair 0: .* not rectified"):
        StereoMatcher(RANGE).match(torch.stack([left, left]), torch.stack([right.roll(6, -2), right]))


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_far_scenes_pass(scene: Any, shift: int) -> None:
    """Disparities that the small copy cannot tell from none, and slanted textures, which match further up as well."""
    line = picture(1, 1, 900)
    slanted = torch.cat([line[..., row : row + 400] for row in range(200)], dim=-2)
    wide = torch.from_numpy(scene.left)
    for image in (slanted, wide):
        width = image.shape[-1] - 2
        StereoMatcher(16, levels=1).match(image[..., :width], image[..., shift : shift + width])


def test_pictures_that_say_nothing_pass() -> None:
    noise = torch.rand(2, 1, 120, 160, generator=torch.Generator().manual_seed(0))
    for left, right in ((noise[0], noise[1]), (noise[0], noise[0]), (torch.zeros(1, 90, 90), torch.zeros(1, 90, 90))):
        StereoMatcher(20).match(left, right)


IMAGE = torch.zeros(3, 20, 30)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: StereoMatcher(0), ValueError, "max_disparity is 0, expected a whole number above min_disparity 0"),
        (lambda: StereoMatcher(9, min_disparity=9), ValueError, "max_disparity is 9"),
        (lambda: StereoMatcher(9, levels=0), ValueError, "levels is 0, expected a whole number from 1 to 16"),
        (lambda: StereoMatcher(9, radius=-1), ValueError, "radius is -1"),
        (lambda: StereoMatcher(9, eps=0.0), ValueError, "eps is 0.0"),
        (lambda: StereoMatcher(9, cross_scale_lambda=-1.0), ValueError, "cross_scale_lambda is -1.0"),
        (lambda: StereoMatcher(9, memory_limit=0), ValueError, "memory_limit is 0"),
        (lambda: StereoMatcher(float("nan")), ValueError, "max_disparity is nan"),
        (lambda: StereoMatcher(9, min_disparity=float("-inf")), ValueError, "min_disparity is -inf"),
        (lambda: StereoMatcher(9.5), ValueError, "max_disparity is 9.5"),
        (lambda: StereoMatcher(9, device="nonsense"), ValueError, "device is 'nonsense', expected a device of torch"),
        (lambda: MatchingCost(ad_weight=-1.0), ValueError, "MatchingCost: ad_weight is -1.0"),
        (
            lambda: MatchingCost(ad_weight=0, gradient_weight=0, census_weight=0),
            ValueError,
            "are 0, expected one above 0",
        ),
        (lambda: MatchingCost(ad_threshold=-1.0), ValueError, "MatchingCost: ad_threshold is -1.0"),
        (lambda: MatchingCost(census_window=(4, 4)), ValueError, r"MatchingCost: census_window is \(4, 4\)"),
        (lambda: WLSLevels(lambda_=-1.0), ValueError, "WLSLevels: lambda_ is -1.0"),
        (lambda: WLSLevels(factor=0.0), ValueError, "WLSLevels: factor is 0.0"),
        (lambda: WLSRefinement(alpha=0.0), ValueError, "WLSRefinement: alpha is 0.0"),
        (lambda: WLSRefinement(least_confidence=float("nan")), ValueError, "least_confidence is nan"),
        (lambda: Refinement(sigma_color=0.0), ValueError, "Refinement: sigma_color is 0.0"),
        (lambda: Refinement(median_radius=500), ValueError, "Refinement: radius is 500, expected .* to 127"),
        (lambda: Refinement(subpixel_radius=10**6), ValueError, "Refinement: radius is 1000000"),
        (lambda: Refinement(least_confidence=2.0), ValueError, "Refinement: least_confidence is 2.0"),
        (lambda: StereoMatcher.preset("best", max_disparity=9), ValueError, "preset is 'best', expected one of 'fast'"),
        (lambda: MatchingCost("sad"), ValueError, "kind is 'sad'"),
        (lambda: Refinement(median_radius=-1), ValueError, "Refinement: radius is -1"),
        (lambda: Refinement(subpixel_radius=-2), ValueError, "Refinement: radius is -2"),
        (lambda: Refinement(left_right_tolerance=-1.0), ValueError, "left_right_tolerance is -1.0"),
        (lambda: StereoMatcher(9).match(IMAGE, IMAGE[:, 1:]), ValueError, r"right has shape \(3, 19, 30\), expected"),
        (lambda: StereoMatcher(9).match(IMAGE, IMAGE.double()), ValueError, "right is torch.float64"),
        (lambda: StereoMatcher(31).match(IMAGE, IMAGE), ValueError, "beyond images of width 30"),
        (lambda: StereoMatcher(9, min_disparity=-30).match(IMAGE, IMAGE), ValueError, "beyond images of width 30"),
        (lambda: StereoMatcher(9).match(IMAGE.long(), IMAGE.long()), TypeError, "left is torch.int64, expected uint8"),
        (
            lambda: StereoMatcher(9).match(IMAGE + 200, IMAGE),
            ValueError,
            "left has values from 200 to 200, expected .*0, 1",
        ),
        (lambda: StereoMatcher(9).match(IMAGE, IMAGE / 0), ValueError, "right has 1800 values that are NaN"),
        (lambda: StereoMatcher(9).match(torch.zeros(5, 20, 30), torch.zeros(5, 20, 30)), ValueError, "left has shape"),
        (
            lambda: StereoMatcher(9).match(torch.zeros(3, 0, 30), torch.zeros(3, 0, 30)),
            ValueError,
            "at least one pixel",
        ),
        (lambda: StereoMatcher(9).match([[0.0]], [[0.0]]), TypeError, "left is a list"),
        (
            lambda: StereoMatcher(9, memory_limit=100).match(IMAGE, IMAGE),
            ValueError,
            "memory_limit is 100 bytes, expected",
        ),
    ],
)
def test_errors_name_argument_value_and_expectation(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
