"""census_transform on CPU: the bits of the definition, every dtype and shape, and the contract of the op."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import reference
from fastseg.backends import cpu_matching_cost as cpu
from fastseg.ops import census_transform
from tests.support import DTYPES, assert_same_bits, for_thread_counts, pairwise, rerun_with_capability

OP = torch.ops.fastseg.census_transform.default
ODD = (21, 53)
WINDOWS = ((7, 9), (9, 7), (9, 9), (3, 3), (1, 3), (5, 1), (1, 9), (9, 1))


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """A number that no census has, so that a word that nobody writes is seen."""
    allocate = cpu.new_output
    monkeypatch.setattr(cpu, "new_output", lambda *args: allocate(*args).fill_(0x7654321076543210))


def picture(*shape: int, dtype: torch.dtype = torch.float32, levels: int = 6, seed: int = 0) -> Tensor:
    """Few colours, so that greys of different colours are equal, or nearly: the order shows every rounding."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, levels, shape, generator=generator)
    return colours.to(dtype) * (255 // levels) if dtype == torch.uint8 else (colours / levels).to(dtype)


def check(image: Tensor, window: tuple[int, int]) -> None:
    words = census_transform(image, window=window)
    expected = reference.census_transform(image, window=window)
    assert words.dtype == torch.int64 and words.is_contiguous()
    assert words.shape == expected.shape and torch.equal(words, expected)


@pytest.mark.parametrize("window", ((3, 5), (9, 9), (7, 9)))
def test_reference_is_the_definition(window):
    image = np.random.default_rng(0).integers(0, 256, (11, 13))
    rows, columns = window
    words = reference.census_transform(torch.from_numpy(image.astype(np.uint8)), window=window).numpy()
    padded = np.pad(image, ((rows // 2,) * 2, (columns // 2,) * 2), mode="edge")
    for y in range(11):
        for x in range(13):
            neighbours = np.delete(padded[y : y + rows, x : x + columns].ravel(), rows * columns // 2)
            bits = "".join(str(int(neighbour < image[y, x])) for neighbour in neighbours)[::-1]
            number = sum(int(word) % 2**64 << 64 * i for i, word in enumerate(words[:, y, x]))
            assert number == int(bits, 2)


@pytest.mark.parametrize(("window", "dtype", "channels"), pairwise(WINDOWS, (*DTYPES, torch.uint8), (1, 3)), ids=str)
def test_same_bits_as_the_reference(window, dtype, channels):
    check(picture(2, channels, *ODD, dtype=dtype), window)


@pytest.mark.parametrize("size", ((1, 1), (1, 7), (7, 1), (2, 2), (1, 300), (300, 1), (33, 64), (18, 129)), ids=str)
def test_thin_and_small_images(size):
    check(picture(3, *size), (9, 9))
    check(picture(*size), (7, 9))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(0, 3),
    channels=st.sampled_from((1, 3)),
    height=st.integers(1, 50),
    width=st.integers(1, 150),
    window=st.tuples(st.sampled_from((1, 3, 5, 7, 9)), st.sampled_from((3, 5, 7, 9))),
    dtype=st.sampled_from((*DTYPES, torch.uint8)),
    levels=st.sampled_from((2, 10, 200)),
)
def test_any_shape(batch, channels, height, width, window, dtype, levels):
    shape = (batch, channels, height, width) if batch else (channels, height, width)
    check(picture(*shape, dtype=dtype, levels=levels), window)


def test_colours_of_the_same_grey_are_equal():
    """Bytes are compared by whole numbers: 299 R + 587 G + 114 B is 17,634 for each of these."""
    colours = torch.tensor(((0, 18, 62), (15, 9, 69), (30, 0, 76)), dtype=torch.uint8)
    which = torch.randint(0, 3, ODD, generator=torch.Generator().manual_seed(0))
    assert not census_transform(colours[which].permute(2, 0, 1)).any()
    colours[0, 2] -= 1  # one of them is darker now
    assert census_transform(colours[which].permute(2, 0, 1)).any()


def test_brightness_and_contrast_do_not_matter():
    image = picture(*ODD)
    words = census_transform(image)
    assert torch.equal(words, census_transform(0.5 * image + 0.25))


def test_the_largest_window_has_two_words():
    words = census_transform(picture(2, 3, *ODD), window=(9, 9))
    assert words.shape == (2, 2, *ODD)
    assert (words[:, 1] >> 16 == 0).all() and (words[:, 1] != 0).any() and (words[:, 0] < 0).any()  # bit 63 is used


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "channels last": lambda t: t.movedim(-3, -1).contiguous().movedim(-1, -3),
    "cropped": lambda t: torch.nn.functional.pad(t, (2, 3, 1, 4), value=float("nan"))[..., 1:-4, 2:-3],
    "expanded": lambda t: t[..., :1, :, :].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    check(LAYOUTS[layout](picture(2, 3, *ODD)), (7, 9))


def test_ranks():
    image = picture(2, 1, *ODD)
    words = census_transform(image)
    assert words.shape == (2, 1, *ODD)
    assert torch.equal(census_transform(image[0]), words[0]) and torch.equal(census_transform(image[0, 0]), words[0])
    assert census_transform(image[:0], window=(9, 9)).shape == (0, 2, *ODD)


def test_same_bits_for_every_number_of_threads():
    image = picture(2, 3, 120, 130)
    assert_same_bits(for_thread_counts((1, 2, 3, 7), lambda: census_transform(image)))


def test_has_no_gradient():
    assert not census_transform(picture(*ODD).requires_grad_()).requires_grad


def test_opcheck():
    torch.library.opcheck(OP, (picture(2, 3, 5, 8), 9, 9))
    torch.library.opcheck(OP, (picture(2, 1, 8, 5).mT, 3, 5))


def test_compile_without_break_or_recompile():
    torch._dynamo.reset()
    function = torch.compile(lambda t: census_transform(t + 1) + 1, fullgraph=True, dynamic=True)
    for size, stance in ((9, "default"), (12, "fail_on_recompile")):
        image = picture(3, size, size + 1)
        with torch.compiler.set_stance(stance):
            compiled = function(image)
        assert torch.equal(compiled, census_transform(image + 1) + 1)


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("census_transform", picture(*ODD))


def test_forced_reference():
    image = picture(3, *ODD)
    with fastseg.backend("reference"):
        assert torch.equal(census_transform(image), reference.census_transform(image))


@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.float16, np.uint8))
def test_numpy(dtype):
    image = (20 * picture(3, *ODD).numpy()).astype(dtype)
    words = census_transform(image)
    assert isinstance(words, np.ndarray) and words.dtype == np.int64
    assert np.array_equal(words, census_transform(torch.from_numpy(image)).numpy())


def message_cases():
    bad = torch.rand(6, 8)
    bad[2, 3] = float("inf")
    windows = ((6, 9), (7, 4), (11, 9), (1, 1), (0, 3), (7,), 7, (3, -1))
    return (
        (TypeError, {"image": "photograph"}, "image is a str, expected a NumPy, CuPy or torch array"),
        (TypeError, {"image": bad.int()}, "image is torch.int32, expected float32"),
        (ValueError, {"image": torch.rand(2, 6, 8)}, r"image has shape \(2, 6, 8\), expected .* channels before"),
        (ValueError, {"image": torch.rand(8)}, r"image has shape \(8,\), expected \(H, W\)"),
        (ValueError, {"image": torch.rand(6, 0)}, r"image has shape \(6, 0\), expected at least one pixel"),
        (ValueError, {"image": bad}, r"image has 1 values that are NaN or infinite, the first at \(2, 3\)"),
        *((ValueError, {"window": w}, r"window is .*, both odd, from 1 to 9, not both 1") for w in windows),
    )


@pytest.mark.parametrize(("error", "change", "message"), message_cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_errors(error, change, message):
    with pytest.raises(error, match=f"^census_transform: {message}"):
        census_transform(**{"image": torch.rand(6, 8), **change})


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "same_bits or thin or shape or layouts or colours")
