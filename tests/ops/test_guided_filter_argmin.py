"""guided_filter_argmin on CPU: the same bits as filtering and then looking for the minimum, and the op's contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import fastseg
from fastseg.ops import guided_filter, guided_filter_argmin, matching_cost
from tests.support import (
    DTYPES,
    assert_same_bits,
    data_file,
    for_thread_counts,
    in_layout,
    pairwise,
    rerun_with_capability,
)

OP = torch.ops.fastseg.guided_filter_argmin.default
SETTINGS = {"radius": 4, "eps": 1e-3}
ODD = (37, 53)
#: Few slices, which are filtered one at a time; part of a group of lanes; some groups and a part.
SLICES = (1, 2, 7, 16, 37)


def inputs(slices: int, dtype: torch.dtype = torch.float32, size: tuple[int, int] = ODD, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    guide = torch.rand((2, 3, *size), generator=generator)
    costs = torch.rand((2, slices, *size), generator=generator)
    return guide, (255 * costs).byte() if dtype == torch.uint8 else costs.to(dtype)


def check(guide: Tensor, costs: Tensor, **parameters: object) -> None:
    parameters = {**SETTINGS, **parameters}
    index, cost = guided_filter_argmin(guide, costs, **parameters)
    wide = costs.to(torch.promote_types(costs.dtype, torch.float32))
    expected = guided_filter(guide, wide, **parameters)
    assert index.dtype == torch.int64 and cost.dtype == wide.dtype
    assert torch.equal(cost, expected.amin(-3))
    first = (expected == cost.unsqueeze(-3)).int().argmax(-3)
    assert torch.equal(index, first)


@pytest.mark.parametrize("dtype", (*DTYPES, torch.uint8), ids=str)
@pytest.mark.parametrize("slices", SLICES)
def test_is_the_minimum_of_the_filtered_volume(slices, dtype):
    check(*inputs(slices, dtype))


@pytest.mark.parametrize("size", ((1, 1), (1, 40), (40, 1), (200, 17)), ids=str)
@pytest.mark.parametrize("slices", SLICES)
def test_sizes(slices, size):
    check(*inputs(slices, size=size))


@pytest.mark.parametrize(
    ("slices", "radius", "border"), pairwise((2, 37), (0, 1, 20, 150), ("truncate", "reflect", "reflect_101")), ids=str
)
def test_radii_and_borders(slices, radius, border):
    check(*inputs(slices), radius=radius, border=border)


@pytest.mark.parametrize("slices", (2, 37))
def test_first_of_equal_slices(slices):
    guide, costs = inputs(slices)
    costs = costs[:, :1].expand_as(costs)
    assert not guided_filter_argmin(guide, costs, **SETTINGS).index.any()


@pytest.mark.parametrize("layout", ("channels_last", "channel_slice", "permuted"))
def test_layouts(layout):
    guide, costs = inputs(20)
    expected = guided_filter_argmin(guide, costs, **SETTINGS)
    actual = guided_filter_argmin(in_layout(guide, layout), in_layout(costs, layout), **SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_one_volume_and_the_reference():
    guide, costs = inputs(20)
    grey = guide[0, 0]
    index, cost = guided_filter_argmin(grey, costs[0], **SETTINGS)
    assert index.shape == cost.shape == ODD
    with fastseg.backend("reference"):
        slow = guided_filter_argmin(grey, costs[0], **SETTINGS)
    torch.testing.assert_close(cost, slow.cost, rtol=0, atol=1e-5)
    assert (index == slow.index).float().mean() > 0.999  # but for ties within rounding


def test_numpy():
    guide, costs = inputs(20)
    found = guided_filter_argmin(guide[0].numpy(), costs[0].numpy(), **SETTINGS)
    assert isinstance(found.index, np.ndarray) and isinstance(found.cost, np.ndarray)
    assert np.array_equal(found.index, guided_filter_argmin(guide[0], costs[0], **SETTINGS).index.numpy())


def test_same_bits_for_every_number_of_threads():
    guide, costs = inputs(37, size=(300, 60))
    assert_same_bits(for_thread_counts((1, 2, 3, 7), lambda: guided_filter_argmin(guide, costs, **SETTINGS)))


def test_opcheck():
    guide, costs = inputs(5, size=(6, 7))
    torch.library.opcheck(OP, (guide, costs, 2, 1e-2, "truncate"))


def test_compile_without_break_or_recompile():
    torch._dynamo.reset()
    function = torch.compile(lambda g, c: guided_filter_argmin(g, c * 2, **SETTINGS), fullgraph=True, dynamic=True)
    for size, stance in (((8, 9), "default"), ((10, 12), "fail_on_recompile")):
        guide, costs = inputs(5, size=size)
        with torch.compiler.set_stance(stance):
            found = function(guide, costs)
        assert torch.equal(found.index, guided_filter_argmin(guide, costs * 2, **SETTINGS).index)


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("guided_filter_argmin", inputs(2)[1])


def test_no_images():
    found = guided_filter_argmin(torch.zeros(0, 3, 4, 5), torch.zeros(0, 2, 4, 5), **SETTINGS)
    assert found.index.shape == found.cost.shape == (0, 4, 5)


@pytest.mark.parametrize(("pair", "most"), (("teddy", 0.09), ("cones", 0.04)))
def test_disparities_of_real_pairs(pair, most):
    """Costs, filter and winner as in CostFilter: its wrong pixels before any of its refinement (8.5 % and 3.5 %)."""
    image = pytest.importorskip("PIL.Image")

    def read(name: str) -> np.ndarray:
        mode = "RGB" if name.startswith("im") else "L"  # some are palettes
        return np.array(image.open(data_file(f"stereo/middv2/{pair}/{name}.png")).convert(mode))

    left, right = (np.ascontiguousarray(read(name).transpose(2, 0, 1)) for name in ("imL", "imR"))
    costs = matching_cost(left, right, max_disparity=60)
    found = guided_filter_argmin((left / 255.0).astype(np.float32), costs, radius=9, eps=1e-4)
    truth = read("groundtruth") / 4.0
    wrong = np.abs(found.index - truth) > 1
    assert wrong[(read("nonocc") == 255) & (truth > 0)].mean() < most


def message_cases():
    bad = torch.rand(20, 4, 5)
    bad[7, 2, 3] = float("nan")
    few = torch.rand(2, 4, 5)
    few[1, 0, 1] = float("inf")
    return (
        ({"costs": torch.rand(4, 5)}, r"costs has shape \(4, 5\), expected \(D, H, W\) with at least one slice"),
        ({"costs": torch.rand(0, 4, 5)}, r"costs has shape \(0, 4, 5\), expected \(D, H, W\) with at least one slice"),
        ({"costs": torch.rand(2, 2, 4, 5)}, r"costs has shape \(2, 2, 4, 5\), expected"),
        ({"costs": torch.rand(2, 4, 6)}, r"guide has shape \(3, 4, 5\), expected costs's image size"),
        ({"costs": bad}, r"costs has 1 values that are NaN or infinite, the first at \(7, 2, 3\)"),
        ({"costs": few}, r"costs has 1 values that are NaN or infinite, the first at \(1, 0, 1\)"),
        ({"radius": -1}, "radius is -1, expected a whole number"),
        ({"eps": 0.0}, "eps is 0.0, expected a finite number > 0"),
        ({"border": "wrap"}, "border is 'wrap', expected one of"),
    )


@pytest.mark.parametrize(("changes", "message"), message_cases())
def test_errors(changes, message):
    arguments = {"costs": torch.rand(2, 4, 5), **SETTINGS, **changes}
    with pytest.raises(ValueError, match="guided_filter_argmin: " + message):
        guided_filter_argmin(torch.rand(3, 4, 5), arguments.pop("costs"), **arguments)


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    rerun_with_capability(__file__, capability, "minimum or sizes or borders or equal")
