"""guided_filter on a GPU: against the reference in float64, what a launch owes to CUDA, and its time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import fastseg
from fastseg.backends import availability, select
from fastseg.ops import guided_filter
from fastseg.ops.guided_filter import BORDERS
from tests.support import assert_within_budget

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

SIZES = ((1, 1), (1, 700), (700, 1), (37, 53), (375, 450), (300, 2101))
RADII = (0, 1, 9, 60, 3000)
VOLUME = (64, 375, 450)


def images(height: int, width: int, channels: int = 2, guide_channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and a guide with edges and little noise, as photographs have them."""
    generator = torch.Generator().manual_seed(height * width + guide_channels)
    src = torch.rand(channels, height, width, generator=generator)
    noise = torch.rand(guide_channels, height, width, generator=generator)
    steps = ((torch.arange(height)[:, None] // 7 + torch.arange(width) // 11) % 3) / 3
    return src.cuda(), (steps + 0.1 * noise).cuda()


@pytest.fixture(params=("triton", "cuda"))
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend that is forced; CUDA C++ where it was built."""
    name = request.param
    if name == "cuda" and (why := availability.cuda_refusal()) is not None:
        pytest.skip(why)
    with fastseg.backend(name):
        yield name


def check(
    src: torch.Tensor,
    guide: torch.Tensor,
    radius: int,
    eps: float = 1e-2,
    border: str = "truncate",
    subsample: int = 1,
) -> None:
    """Of the forced backend; what CUDA C++ leaves to others must be refused."""
    more = {"border": border, "subsample": subsample}
    largest = min(radius, src.shape[-1] - 1) if border == "truncate" else radius
    if select.choose("guided_filter", src).backend == "cuda" and (subsample > 1 or largest > 96):
        with pytest.raises(
            fastseg.BackendError, match=f"subsample is {subsample}," if subsample > 1 else f"radius is {radius},"
        ):
            guided_filter(guide, src, radius=radius, eps=eps, **more)
        return
    actual = guided_filter(guide, src, radius=radius, eps=eps, **more)
    assert actual.dtype == src.dtype
    with fastseg.backend("reference"):
        exact = guided_filter(guide.double(), src.double(), radius=radius, eps=eps, **more)
        peer = guided_filter(guide, src, radius=radius, eps=eps, **more)
    if src.dtype == torch.uint8:
        assert (actual.double() - exact.clamp(0, 255)).abs().max() <= 0.5 + 1e-2
    else:
        assert_within_budget(actual, exact, peer, terms=2.0)


def test_triton_runs():
    assert select.choose("guided_filter", torch.ones(2, 3, device="cuda")).backend == "triton"


@pytest.mark.parametrize("guide_channels", (1, 3))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_against_the_reference(size, dtype, guide_channels, kernel, poisoned):
    src, guide = images(*size, guide_channels=guide_channels)
    src = (255 * src).round().to(dtype) if dtype == torch.uint8 else src.to(dtype)
    check(src, guide, 9)


@pytest.mark.parametrize("guide_channels", (1, 3))
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("size", ((37, 53), (375, 450), (40, 2101)), ids=str)
def test_borders(size, radius, border, guide_channels, kernel, poisoned):
    """The largest windows are too wide for tiles, and for the images."""
    check(*images(*size, guide_channels=guide_channels), radius, border=border)


@pytest.mark.parametrize("border", BORDERS)
def test_the_largest_radius(border, kernel, poisoned):
    check(*images(37, 53, guide_channels=3), 1 << 15, border=border)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16, torch.bfloat16, torch.uint8), ids=str)
def test_guides_of_every_dtype(dtype, kernel, poisoned):
    src, guide = images(60, 70, guide_channels=3)
    guide = (255 * guide).round().clamp(0, 255).to(dtype) if dtype == torch.uint8 else guide.to(dtype)
    check(src.double() if dtype == torch.float64 else src, guide, 5, 65.0 if dtype == torch.uint8 else 1e-3)


@pytest.mark.parametrize("channels", (1, 3, 17))
def test_guides_of_a_batch(channels, kernel, poisoned):
    pairs = [images(90, 131, channels, 3), images(90, 131, channels, 3)]
    src, guide = (torch.stack(list(parts)) for parts in zip(*pairs, strict=True))
    check(src, guide + torch.tensor([0.0, 0.5], device="cuda")[:, None, None, None], 4)


@pytest.mark.parametrize("subsample", (2, 5, 400))
@pytest.mark.parametrize("dtype", (torch.float32, torch.uint8), ids=str)
def test_subsample(subsample, dtype, kernel, poisoned):
    src, guide = images(203, 301, guide_channels=3)
    check((255 * src).round().to(dtype) if dtype == torch.uint8 else src, guide, 9, subsample=subsample)


def test_a_small_eps_and_a_colour_guide(kernel):
    """What float32 is to reach where the covariance is nearly singular."""
    src, guide = images(375, 450, guide_channels=3)
    actual = guided_filter(guide, src, radius=9, eps=1e-4)
    with fastseg.backend("reference"):
        exact = guided_filter(guide.double(), src.double(), radius=9, eps=1e-4)
    assert (actual - exact).abs().max() <= 3e-4


@pytest.mark.parametrize("border", BORDERS)
def test_gradient_is_the_references(border, kernel):
    src, guide = images(40, 60, guide_channels=3)
    src = src.double().requires_grad_()
    weights = torch.rand_like(src)
    gradients = []
    for name in (kernel, "reference"):
        with fastseg.backend(name):
            loss = (guided_filter(guide, src, radius=5, eps=1e-2, border=border) * weights).sum()
            gradients.append(torch.autograd.grad(loss, src)[0])
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("radius", (9, 3000))
def test_results_are_the_same_every_time(radius, kernel, poisoned):
    if kernel == "cuda" and radius > 96:
        pytest.skip("wider than its strips")
    src, guide = images(375, 450, 16, 3)
    first = guided_filter(guide, src, radius=radius, eps=1e-3)
    for _ in range(5):
        assert torch.equal(guided_filter(guide, src, radius=radius, eps=1e-3), first)


def test_another_stream(kernel):
    src, guide = images(200, 300, guide_channels=3)
    expected = guided_filter(guide, src, radius=9, eps=1e-3)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = guided_filter(guide, src, radius=9, eps=1e-3)
    stream.synchronize()
    assert torch.equal(expected, other)


def test_offsets_beyond_32_bits(kernel):
    """Planes of 2^31 elements and more: the last slices are those of a volume of their own."""
    src, guide = images(1100, 1300, 4, 3)
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GB of memory")
    many = 1600
    volume = torch.zeros((many, 1100, 1300), dtype=torch.float16, device="cuda")
    volume[-4:] = src
    result = guided_filter(guide, volume, radius=9, eps=1e-3)
    assert torch.equal(result[-4:], guided_filter(guide, volume[-4:].clone(), radius=9, eps=1e-3))
    assert not result[:-4].any()


@pytest.mark.parametrize("guide_channels", (1, 3))
def test_time_beside_a_copy(guide_channels, kernel):
    """Passes over the planes of a and b make a volume some copies long: 12 for a colour guide, if caches hold windows.

    Printed for the record; refused only where it is far from what the bytes say.
    """
    channels, height, width = VOLUME
    src, guide = images(height, width, 4 * channels, guide_channels)

    def milliseconds(work) -> float:
        times = []
        for _ in range(12):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        return sorted(times[2:])[5]

    out = torch.empty_like(src)
    copy = milliseconds(lambda: out.copy_(src))
    taken = milliseconds(lambda: guided_filter(guide, src, radius=9, eps=1e-3))
    floor = copy * (8 + 8 * (guide_channels + 1)) / 8  # Triton's; that of CUDA C++ is a copy
    print(f"\n{kernel}, {guide_channels} guide channels: {taken:.3f} ms, floor {floor:.3f} ms, a copy {copy:.3f} ms")
    assert taken < 5 * floor
