"""matching_cost on CPU: against the definition and float64, every dtype, shape and cost, and the contract of the op."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.backends import cpu_matching_cost as cpu
from fastseg.ops import matching_cost
from tests.support import (
    DTYPES,
    assert_same_bits,
    assert_within_budget,
    data_file,
    for_thread_counts,
    pairwise,
    poison,
    rerun_with_capability,
)

OP = torch.ops.fastseg.matching_cost.default
ODD = (19, 53)
COSTS: dict[str, dict] = {
    "AD and gradient": {},
    "AD": {"gradient_weight": 0.0},
    "gradient": {"ad_weight": 0.0},
    "census": {"ad_weight": 0.0, "gradient_weight": 0.0, "census_weight": 1.0},
    "gradient and census": {"ad_weight": 0.0, "census_weight": 0.4, "census_window": (9, 9)},
    "all": {"census_weight": 0.3, "ad_threshold": 0.1, "gradient_threshold": 0.05, "census_window": (9, 7)},
    "AD-census": {"cost": "ad_census"},
    "AD-census of 80 bits": {"cost": "ad_census", "census_window": (9, 9), "ad_scale": 0.2, "census_scale": 20.0},
}


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu, "new_output")


def pair(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Patches with noise on them in [0, 1], for bytes in [0, 255], and the same five pixels further, with other noise.

    Neighbours of many pixels are equal in grey: the order that a census finds shows every rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = shape[-2:]
    patches = torch.rand((*shape[:-2], -(-height // 4), -(-width // 4) + 2), generator=generator)
    wide = patches.repeat_interleave(4, -2).repeat_interleave(4, -1)[..., :height, : width + 5]
    images = []
    for image in (wide[..., :width], wide[..., 5:]):
        noise = torch.rand(image.shape, generator=generator) * (torch.rand(image.shape, generator=generator) > 0.5)
        image = 0.9 * image + 0.1 * noise
        images.append((255 * image).round().to(dtype) if dtype == torch.uint8 else image.to(dtype))
    return images[0], images[1]


def check(left: Tensor, right: Tensor, **arguments) -> Tensor:
    actual = matching_cost(left, right, **arguments)
    assert actual.is_contiguous()
    # Kernels compute in float32, which float64 images are rounded to.
    read = [t.float() if t.dtype == torch.float64 else t for t in (left, right)]
    exact = reference.matching_cost(*read, **{**arguments, "dtype": torch.float64})
    peer = reference.matching_cost(*read, **arguments)
    assert actual.dtype == peer.dtype
    assert_within_budget(actual, exact, peer)
    return actual


def definition(left, right, d: int, y: int, x: int, view: str, window: tuple[int, int], outside: float):
    """(AD, gradient difference, differing bits) of one pixel of (3, H, W) arrays, in plain Python."""
    base, other, there = (left, right, x - d) if view == "left" else (right, left, x + d)
    height, width = base.shape[-2:]
    grey = [0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2] for image in (base, other)]

    def slope(image, at: int) -> float:
        if at in (0, width - 1):
            first = min(at, width - 2)
            return image[y, first + 1] - image[y, first]
        return (image[y, at + 1] - image[y, at - 1]) / 2

    def darker(image, at: int) -> list[bool]:
        rows, columns = window
        return [
            image[min(max(y + j, 0), height - 1), min(max(at + i, 0), width - 1)] < image[y, at]
            for j in range(-(rows // 2), rows // 2 + 1)
            for i in range(-(columns // 2), columns // 2 + 1)
            if (i, j) != (0, 0)
        ]

    if not 0 <= there < width:
        bits = window[0] * window[1] - 1
        return np.abs(base[:, y, x] - outside).mean(), abs(slope(grey[0], x) - outside), bits
    ad = np.abs(base[:, y, x] - other[:, y, there]).mean()
    ones = sum(a != b for a, b in zip(darker(grey[0], x), darker(grey[1], there), strict=True))
    return ad, abs(slope(grey[0], x) - slope(grey[1], there)), ones


@pytest.mark.parametrize("view", ("left", "right"))
def test_reference_is_the_definition(view):
    # Eighths: no two greys differ by a rounding alone.
    generator = np.random.default_rng(0)
    left, right = generator.integers(0, 9, (2, 3, 6, 9)) / 8
    arguments = {"min_disparity": -3, "max_disparity": 5, "view": view, "census_window": (3, 5), "outside": 0.1}
    tensors = [torch.from_numpy(image) for image in (left, right)]
    weighted = reference.matching_cost(
        *tensors, ad_weight=0.2, gradient_weight=0.7, census_weight=0.3, ad_threshold=0.4, gradient_threshold=0.2,
        dtype=torch.float64, **arguments,
    )  # fmt: skip
    census = reference.matching_cost(*tensors, cost="ad_census", dtype=torch.float64, **arguments)
    for i, d in enumerate(range(-3, 5)):
        for y in range(6):
            for x in range(9):
                ad, gradient, ones = definition(left, right, d, y, x, view, (3, 5), 0.1)
                expected = 0.2 * min(ad, 0.4) + 0.7 * min(gradient, 0.2) + 0.3 * ones / 14
                assert weighted[i, y, x].item() == pytest.approx(expected, abs=1e-12)
                expected = 2 - math.exp(-ones / 35) - math.exp(-ad / (15 / 255))
                assert census[i, y, x].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("cost", "dtype", "channels", "view"), pairwise(COSTS, (*DTYPES, torch.uint8), (1, 3), ("left", "right")), ids=str
)
def test_against_float64(cost, dtype, channels, view):
    left, right = pair(channels, *ODD, dtype=dtype)
    check(left, right, min_disparity=-7, max_disparity=21, view=view, **COSTS[cost])


@pytest.mark.parametrize("size", ((1, 1), (1, 7), (7, 1), (2, 2), (1, 300), (40, 3), (33, 64), (5, 129)), ids=str)
@pytest.mark.parametrize("view", ("left", "right"))
def test_all_disparities_of_thin_and_small_images(size, view):
    left, right = pair(2, 3, *size)
    width = size[1]
    arguments = {"min_disparity": 1 - width, "max_disparity": width, "view": view, "census_weight": 0.2}
    assert check(left, right, **arguments).shape == (2, 2 * width - 1, *size)


@pytest.mark.parametrize("dtype", (torch.float32, torch.uint8), ids=str)
@pytest.mark.parametrize("cost", ("all", "AD-census"))
def test_half_precision_results(cost, dtype):
    left, right = pair(3, *ODD, dtype=dtype)
    half = check(left, right, max_disparity=19, dtype=torch.float16, **COSTS[cost])
    assert torch.equal(half, matching_cost(left, right, max_disparity=19, **COSTS[cost]).half())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(0, 3),
    channels=st.sampled_from((1, 3)),
    height=st.integers(1, 40),
    width=st.integers(1, 90),
    disparities=st.tuples(st.integers(-200, 200), st.integers(1, 70)),
    window=st.tuples(st.sampled_from((1, 3, 5, 7, 9)), st.sampled_from((3, 5, 7, 9))),
    dtype=st.sampled_from((*DTYPES, torch.uint8)),
    view=st.sampled_from(("left", "right")),
    cost=st.sampled_from(("AD and gradient", "all", "AD-census")),
)
def test_any_shape(batch, channels, height, width, disparities, window, dtype, view, cost):
    least = min(max(disparities[0], 1 - width), width - 1)
    most = min(least + disparities[1], width)
    shape = (batch, channels, height, width) if batch else (channels, height, width)
    arguments = {**COSTS[cost], "census_window": window}
    check(*pair(*shape, dtype=dtype), min_disparity=least, max_disparity=most, view=view, **arguments)


def test_more_than_256_disparities():
    left, right = pair(3, 9, 700)
    volume = check(left, right, min_disparity=-40, max_disparity=400, census_weight=0.2)
    assert volume.shape == (440, 9, 700)
    alone = matching_cost(left, right, min_disparity=300, max_disparity=301, census_weight=0.2)
    assert torch.equal(volume[340:341], alone)  # a slice does not know of its neighbours


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_large_volumes_go_past_the_caches(dtype):
    """Streaming stores, from runs that begin anywhere in a line."""
    left, right = pair(3, 131, 647)
    volume = matching_cost(left, right, max_disparity=120, dtype=dtype)
    slices = [matching_cost(left, right, min_disparity=d, max_disparity=d + 1, dtype=dtype) for d in range(120)]
    assert torch.equal(volume, torch.cat(slices))


def test_the_right_image_has_the_same_costs():
    left, right = pair(3, *ODD)
    of_left, of_right = (
        matching_cost(left, right, min_disparity=-4, max_disparity=9, view=view, census_weight=0.2)
        for view in ("left", "right")
    )
    for i, d in enumerate(range(-4, 9)):
        x = torch.arange(max(0, d), min(ODD[1], ODD[1] + d))
        assert torch.equal(of_left[i][:, x], of_right[i][:, x - d])


def test_a_weight_of_zero_takes_the_term_out():
    left, right = pair(3, *ODD)
    alone = matching_cost(left, right, max_disparity=9, gradient_weight=0.0)
    either = matching_cost(left, right, max_disparity=9, gradient_weight=0.0, gradient_threshold=7.0, census_scale=1.0)
    assert torch.equal(alone, either) and alone.max() <= 0.11 * 7 / 255 * (1 + 1e-6)


def test_finds_the_shift():
    wide = torch.rand(3, 30, 85, generator=torch.Generator().manual_seed(0))
    left, right = wide[..., :80], wide[..., 5:]  # left pixel x + 5 is right pixel x
    for cost in COSTS:
        best = matching_cost(left, right, max_disparity=16, **COSTS[cost]).argmin(0)
        assert (best[:, 20:-8] == 5).float().mean() > 0.9, cost


def test_finds_the_disparities_of_a_real_pair():
    image = pytest.importorskip("PIL.Image")
    folder = "stereo/middv2/teddy"
    left, right = (
        np.array(image.open(data_file(f"{folder}/im{side}.png")).convert("RGB")).transpose(2, 0, 1) for side in "LR"
    )
    truth = np.array(image.open(data_file(f"{folder}/groundtruth.png"))) / 4
    costs = torch.from_numpy(matching_cost(left, right, max_disparity=60, cost="ad_census", census_window=(9, 7)))
    smooth = torch.nn.functional.avg_pool2d(costs[None], 9, 1, 4)[0]
    wrong = (smooth.argmin(0).numpy() - truth)[truth > 0]
    assert (np.abs(wrong) > 1).mean() < 0.25  # hidden pixels, and a plain mean of 9 by 9 that knows no edges


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "channels last": lambda t: t.movedim(-3, -1).contiguous().movedim(-1, -3),
    "every second pixel": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "cropped": lambda t: torch.nn.functional.pad(t, (2, 3, 1, 4), value=float("nan"))[..., 1:-4, 2:-3],
    "every second channel": lambda t: t.repeat_interleave(2, -3)[..., ::2, :, :],
    "expanded": lambda t: t[..., :1, :, :].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    left, right = (LAYOUTS[layout](image) for image in pair(2, 3, *ODD))
    check(left, right, max_disparity=9, census_weight=0.2)


def test_images_without_channels_and_batches():
    left, right = pair(2, 1, *ODD)
    volumes = matching_cost(left, right, max_disparity=9, census_weight=0.2)
    assert volumes.shape == (2, 9, *ODD)
    for one, other, volume in zip(left, right, volumes, strict=True):
        assert torch.equal(matching_cost(one, other, max_disparity=9, census_weight=0.2), volume)
        assert torch.equal(matching_cost(one[0], other[0], max_disparity=9, census_weight=0.2), volume)
    assert matching_cost(left[:0], right[:0], max_disparity=9).shape == (0, 9, *ODD)


@pytest.mark.parametrize("batch", (1, 3))
def test_same_bits_for_every_number_of_threads(batch):
    left, right = pair(batch, 3, 70, 130)
    assert_same_bits(
        for_thread_counts((1, 2, 3, 7), lambda: matching_cost(left, right, max_disparity=37, census_weight=0.2))
    )


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cost", ({"ad_threshold": 9.0, "gradient_threshold": 9.0, "census_weight": 0.3}, COSTS["AD-census"])
)
@pytest.mark.parametrize("view", ("left", "right"))
def test_gradcheck_once_and_twice(cost, view):
    # No two greys are as near to each other as the step of a finite difference: the census stays.
    images = torch.rand(2, 3, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaves = [image.clone().requires_grad_() for image in images]

    def function(left: Tensor, right: Tensor) -> Tensor:
        return reference.matching_cost(
            left, right, min_disparity=-1, max_disparity=3, view=view, dtype=torch.float64, **cost
        )

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_gradient_of_the_op_is_the_references():
    left, right = pair(3, *ODD)
    plain = matching_cost(left, right, max_disparity=9, census_weight=0.2)
    gradients = []
    for function in (matching_cost, reference.matching_cost):
        leaves = [image.clone().requires_grad_() for image in (left, right)]
        volume = function(*leaves, max_disparity=9, census_weight=0.2)
        torch.testing.assert_close(volume.detach(), plain)
        gradients.append(torch.autograd.grad(volume.square().sum(), leaves))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    with torch.no_grad():
        assert torch.equal(matching_cost(left.requires_grad_(), right, max_disparity=9, census_weight=0.2), plain)


def test_census_has_no_gradient():
    left, right = pair(3, *ODD)
    volume = matching_cost(left.requires_grad_(), right, max_disparity=3, **COSTS["census"])
    (gradient,) = torch.autograd.grad(volume.sum(), left)
    assert not gradient.any()


def test_a_forced_kernel_refuses_images_that_require_grad():
    left, right = pair(3, *ODD)
    with fastseg.backend("cpu"), pytest.raises(fastseg.BackendError, match=r"'cpu' is forced.*left or right requires"):
        matching_cost(left, right.requires_grad_(), max_disparity=3)


# ---- the contract of the op ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ("contiguous", "transposed"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_opcheck(layout, dtype):
    left, right = pair(2, 3, 5, 8)
    if layout == "transposed":
        left, right = left.mT, right.mT
    weights = (0.1, 0.8, 0.2, 0.02, 0.01)
    torch.library.opcheck(OP, (left, right, -1, 4, "left", "weighted", *weights, 7, 9, 0.01, 0.05, 35.0, dtype))


def test_compile_without_break_or_recompile():
    torch._dynamo.reset()

    def volume(left: Tensor, right: Tensor) -> Tensor:
        return matching_cost(left * 0.5, right * 0.5, max_disparity=5, census_weight=0.2) + 1

    function = torch.compile(volume, fullgraph=True, dynamic=True)
    for size, stance in ((9, "default"), (12, "fail_on_recompile")):
        left, right = pair(3, size, size + 1)
        with torch.compiler.set_stance(stance):
            compiled = function(left, right)
        torch.testing.assert_close(compiled, volume(left, right))


def test_compile_of_images_that_require_grad():
    torch._dynamo.reset()
    left, right = pair(3, 9, 12)
    left.requires_grad_()
    function = torch.compile(lambda a, b: matching_cost(a, b, max_disparity=3), fullgraph=True)
    gradients = [
        torch.autograd.grad(f(left, right).square().sum(), left)[0]
        for f in (function, lambda a, b: matching_cost(a, b, max_disparity=3))
    ]
    torch.testing.assert_close(*gradients)


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("matching_cost", pair(1, *ODD)[0])


def test_forced_reference():
    left, right = pair(3, *ODD)
    with fastseg.backend("reference"):
        forced = matching_cost(left, right, max_disparity=5, census_weight=0.2)
    assert torch.equal(forced, reference.matching_cost(left, right, max_disparity=5, census_weight=0.2))


# ---- arrays and arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.float16, np.uint8))
def test_numpy(dtype):
    left, right = ((200 * image.numpy()).astype(dtype) for image in pair(3, *ODD))
    volume = matching_cost(left, right, max_disparity=9, ad_threshold=90.0)
    assert isinstance(volume, np.ndarray) and volume.dtype == np.float32
    expected = matching_cost(torch.from_numpy(left), torch.from_numpy(right), max_disparity=9, ad_threshold=90.0)
    assert np.array_equal(volume, expected.numpy())
    flipped = matching_cost(left[:, ::-1], right[:, ::-1], max_disparity=9, ad_threshold=90.0)
    assert np.array_equal(flipped[:, ::-1], volume)


@pytest.mark.parametrize("dtype", (torch.float16, np.float16, np.dtype("float16"), "float16"), ids=str)
def test_dtype_by_any_name(dtype):
    left, right = pair(1, *ODD)
    assert matching_cost(left, right, max_disparity=2, dtype=dtype).dtype == torch.float16


def message_cases():
    image = torch.rand(3, 6, 8)
    bad = image.clone()
    bad[1, 2, 3] = float("nan")
    expected = (
        (TypeError, {"left": [[1.0]]}, "left is a list, expected a NumPy, CuPy or torch array"),
        (TypeError, {"right": image.long()}, "right is torch.int64, expected float32"),
        (ValueError, {"left": torch.rand(8)}, r"left has shape \(8,\), expected \(H, W\)"),
        (ValueError, {"left": torch.rand(6, 8, 3)}, r"left has shape \(6, 8, 3\), expected .* channels before"),
        (ValueError, {"right": torch.rand(2, 6, 8)}, r"right has shape \(2, 6, 8\), expected"),
        (ValueError, {"left": torch.rand(3, 0, 8)}, r"left has shape \(3, 0, 8\), expected at least one pixel"),
        (ValueError, {"right": torch.rand(3, 6, 9)}, r"right has shape \(3, 6, 9\), expected left's shape \(3, 6, 8\)"),
        (ValueError, {"right": torch.rand(1, 6, 8)}, r"right has shape \(1, 6, 8\), expected left's shape"),
        (ValueError, {"right": image.double()}, "right has dtype torch.float64, expected left's dtype torch.float32"),
        (ValueError, {"right": image.to("meta")}, "right is on meta, expected left's device cpu"),
        (ValueError, {"left": bad}, r"left has 1 values that are NaN or infinite, the first at \(1, 2, 3\)"),
        (ValueError, {"right": bad / 0}, "right has 144 values that are NaN or infinite"),
        (ValueError, {"max_disparity": 0}, "max_disparity is 0, expected more than min_disparity 0"),
        (
            ValueError,
            {"max_disparity": 3, "min_disparity": 5},
            "max_disparity is 3, expected more than min_disparity 5",
        ),
        (ValueError, {"max_disparity": 9}, "max_disparity is 9, expected at most the width 8"),
        (ValueError, {"min_disparity": -8}, "min_disparity is -8, expected more than -8, the width"),
        (ValueError, {"max_disparity": 2.5}, "max_disparity is 2.5, expected a whole number"),
        (ValueError, {"max_disparity": float("nan")}, "max_disparity is nan, expected a whole number"),
        (ValueError, {"view": "top"}, "view is 'top', expected one of 'left', 'right'"),
        (ValueError, {"cost": "ssd"}, "cost is 'ssd', expected one of 'weighted', 'ad_census'"),
        (ValueError, {"dtype": torch.float64}, "dtype is torch.float64, expected float32 or float16"),
        (ValueError, {"dtype": "half a float"}, "dtype is half a float, expected float32 or float16"),
        (ValueError, {"dtype": None}, "dtype is None, expected float32 or float16"),
        (ValueError, {"ad_scale": 0.0}, "ad_scale is 0.0, expected a finite number > 0"),
        (ValueError, {"census_scale": float("nan")}, "census_scale is nan, expected a finite number > 0"),
        (ValueError, {"ad_weight": 0, "gradient_weight": 0}, "ad_weight, gradient_weight and census_weight are 0"),
    )
    negative = ("ad_weight", "gradient_weight", "census_weight", "ad_threshold", "gradient_threshold", "outside")
    windows = ((6, 9), (7, 4), (11, 9), (1, 1), (0, 3), (7,), 7, (7.5, 9), (3, -1), (float("inf"), 3))
    return (
        *expected,
        *((ValueError, {name: -0.5}, f"{name} is -0.5, expected a finite number >= 0") for name in negative),
        *(
            (ValueError, {"census_window": w}, r"census_window is .*, both odd, from 1 to 9, not both 1")
            for w in windows
        ),
    )


@pytest.mark.parametrize(("error", "change", "message"), message_cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_errors(error, change, message):
    image = torch.rand(3, 6, 8)
    with pytest.raises(error, match=f"^matching_cost: {message}"):
        matching_cost(**{"left": image, "right": image, "max_disparity": 4, **change})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "float64 or thin or half or shape or 256 or large or layouts or shift")
