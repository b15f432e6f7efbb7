"""wls_filter, wls_solve, WLSSystem and wls_decompose on the CPU: against direct solves in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastseg
from fastseg import reference
from fastseg.backends import memory
from fastseg.ops import WLSConvergenceError, WLSConvergenceWarning, WLSSystem, wls, wls_decompose, wls_filter, wls_solve
from tests.support import data_file, for_thread_counts, pairwise, poison, rerun_with_capability

SHAPES = ((1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (2, 3), (17, 33), (64, 50), (37, 130), (129, 64))
SETTINGS = ((1.0, 1.2, 1e-4), (64.0, 1.2, 1e-4), (0.1, 2.0, 1e-3), (1000.0, 1.5, 1e-4))
# Weights are computed in float32: a few roundings of a logarithm, a power and a quotient.
WEIGHT_ERROR = 4e-6


@pytest.fixture(autouse=True)
def nan_poisoned_memory(monkeypatch):
    poison(monkeypatch, memory, "empty")
    poison(monkeypatch, memory, "empty_like")


def image(shape: tuple[int, ...], kind: str = "noise", seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    numbers = random.random(shape)
    if kind == "steps":  # areas of one value, as 8-bit images have, and black ones
        numbers = np.round(numbers.cumsum(-1) / shape[-1] * 4) / 4
    if kind == "smooth":
        numbers = 0.5 + 0.4 * np.sin(np.linspace(0, 9, shape[-1])) * np.cos(np.linspace(0, 7, shape[-2]))[:, None]
    return numbers


def matrix(guide: np.ndarray, lambda_: float, alpha: float, eps: float) -> sparse.csc_matrix:
    """I + lambda L of docs/wls.md, put together pixel by pixel."""
    pixels = np.arange(guide.size).reshape(guide.shape)
    log = np.log(guide.astype(np.float64) + 2.2e-16).ravel()
    pairs = [(pixels[:, :-1].ravel(), pixels[:, 1:].ravel()), (pixels[:-1].ravel(), pixels[1:].ravel())]
    first, second = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    weight = lambda_ / (np.abs(log[first] - log[second]) ** alpha + eps)
    size = (guide.size, guide.size)
    links = sparse.csc_matrix((weight, (first, second)), size)
    links = links + links.T
    return sparse.csc_matrix(sparse.identity(guide.size) + sparse.diags(np.asarray(links.sum(1)).ravel()) - links)


def direct(src: np.ndarray, guide: np.ndarray, *parameters: float) -> np.ndarray:
    solution = scipy.sparse.linalg.spsolve(matrix(guide, *parameters), src.astype(np.float64).ravel())
    return np.asarray(solution).reshape(src.shape)


def largest_error(src: np.ndarray, tol: float) -> float:
    """A is at least I, so |u - exact| <= the residual; weights with a relative error e change u by e |g| at most."""
    return (tol + WEIGHT_ERROR) * float(np.linalg.norm(src.astype(np.float64)))


def smallest_tolerance(lambda_: float, eps: float = 1e-4) -> float:
    """What float64 allows: a solution rounded to it has a residual of its rounding times the largest weights."""
    return max(1e-10, 2.3e-16 * 8 * lambda_ / eps)


@pytest.mark.parametrize(
    ("shape", "setting", "kind"), pairwise(SHAPES, SETTINGS, ("noise", "steps", "smooth")), ids=str
)
def test_against_a_direct_solve(shape, setting, kind):
    guide = image(shape, kind)
    src = image(shape, "noise", seed=1)
    names = dict(zip(("lambda_", "alpha", "eps"), setting, strict=True))
    tol = smallest_tolerance(setting[0], setting[2])
    result = wls_solve(src, guide, tol=tol, **names)
    assert result.solution.dtype == np.float64
    assert result.residual <= tol
    assert np.abs(result.solution - direct(src, guide, *setting)).max() <= largest_error(src, tol)
    # What is told is true of the rounded weights, which differ from these by the fluxes times their relative error.
    system = matrix(guide, *setting)
    links = sparse.diags(system.diagonal()) - system
    rows, columns = links.nonzero()
    fluxes = np.zeros(src.size)
    u = result.solution.ravel()
    np.add.at(fluxes, rows, np.abs(np.asarray(links[rows, columns]).ravel() * (u[rows] - u[columns])))
    residual = np.linalg.norm(system @ u - src.ravel())
    assert residual <= 1.01 * tol * np.linalg.norm(src) + WEIGHT_ERROR * np.linalg.norm(fluxes)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    lambda_=st.floats(0, 1e3),
    alpha=st.floats(0.5, 2.0),
    seed=st.integers(0, 99),
    kind=st.sampled_from(("noise", "steps")),
)
def test_random_shapes(height, width, lambda_, alpha, seed, kind):
    guide, src = image((height, width), kind, seed), image((height, width), "noise", seed + 100)
    tol = smallest_tolerance(lambda_)
    result = wls_filter(src, guide, lambda_=lambda_, alpha=alpha, tol=tol, max_iterations=3000)
    assert np.abs(result - direct(src, guide, lambda_, alpha, 1e-4)).max() <= largest_error(src, tol)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_reference_is_the_direct_solve(setting):
    guide, src = image((13, 21), "steps"), image((13, 21), seed=1)
    solution, _, residual = reference.wls_filter(torch.from_numpy(src), torch.from_numpy(guide), *setting)
    assert residual.item() <= smallest_tolerance(setting[0], setting[2])
    assert np.abs(solution.numpy() - direct(src, guide, *setting)).max() < 1e-9


def test_weight_of_every_kind_of_neighbours():
    """Two pixels have a closed solution: u0 = (g0 + w (g0 + g1)) / (1 + 2 w)."""
    random = np.random.default_rng(3)
    low = np.concatenate([random.random(60), [0, 0, 0.5, 1e-8, 0, 1, 254, 1e6]])
    high = np.concatenate([low[:30] * (1 + 10.0 ** random.uniform(-7, 1, 30)), random.random(30)])
    high = np.concatenate([high, [0, 1, 0.5, 1, 1e-12, 1, 255, 1e6 + 1]])
    for swap in (False, True):
        guide = np.stack((high, low) if swap else (low, high), axis=-1)[:, None]
        src = np.broadcast_to(np.array([0.0, 1.0]), guide.shape).copy()
        weight = 1 / (np.abs(np.diff(np.log(guide + 2.2e-16))[..., 0]) ** 1.2 + 1e-4)
        actual = wls_filter(src, guide, tol=smallest_tolerance(1.0))
        np.testing.assert_allclose(actual[..., 0], weight / (1 + 2 * weight), rtol=WEIGHT_ERROR)
        np.testing.assert_allclose(actual[..., 1], (1 + weight) / (1 + 2 * weight), rtol=WEIGHT_ERROR)


@pytest.mark.parametrize("lambda_", (1.0, 64.0, 1000.0))
def test_float32_is_within_1e4_of_the_exact_image(lambda_):
    """At the default tolerance, on a real image: 8-bit steps, black pixels, strong edges."""
    from PIL import Image

    grey = np.asarray(Image.open(data_file("stereo/middv2/teddy/imL.png")).convert("L"), dtype=np.float32)[:200, :300]
    grey /= 255
    result = wls_solve(grey, lambda_=lambda_)
    assert result.solution.dtype == np.float32
    assert result.residual <= 1e-5
    assert np.abs(result.solution - direct(grey, grey, lambda_, 1.2, 1e-4)).max() < 1e-4


def test_steps_stay_few():
    """What the multigrid preconditioner is for: a plain one takes hundreds to thousands."""
    for kind, limit in (("smooth", 20), ("noise", 35), ("steps", 80)):
        guide = image((300, 400), kind)
        steps = [wls_solve(guide, lambda_=lambda_, tol=1e-6).iterations for lambda_ in (0.1, 1, 64, 1000)]
        assert max(steps) <= limit, (kind, steps)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16), ids=str)
def test_dtypes_are_rounded_once(dtype):
    guide = torch.from_numpy(image((40, 50), "steps"))
    src = torch.from_numpy(image((40, 50), seed=1)).to(dtype)
    result = wls_filter(src, guide, tol=1e-8)
    assert result.dtype == dtype
    exact = wls_filter(src.double(), guide, tol=1e-8)
    assert (result.double() - exact).abs().max() <= torch.finfo(dtype).eps + 1e-7


def test_integers_are_rounded_to_the_nearest():
    src = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    result = wls_filter(src)
    assert result.dtype == np.uint8
    exact = wls_filter(src.astype(np.float64))
    assert np.abs(result - exact).max() <= 0.5 + 1e-3


def test_kinds_of_arrays():
    src = image((20, 30)).astype(np.float32)
    expected = wls_filter(torch.from_numpy(src))
    read_only = src.copy()
    read_only.flags.writeable = False
    for same in (src, read_only, np.asfortranarray(src), src[::-1].copy()[::-1], src.astype(">f4"), src.astype(float)):
        result = wls_filter(same)
        assert isinstance(result, np.ndarray)
        assert result.dtype == same.dtype.newbyteorder("=")
        np.testing.assert_allclose(result, expected.numpy(), atol=2e-5)
    strided = torch.from_numpy(np.repeat(src, 2, axis=1))[:, ::2]
    assert torch.equal(wls_filter(strided), expected)
    with pytest.raises(TypeError, match="src is a list, expected a NumPy, CuPy or torch array"):
        wls_filter([[1.0]])


def test_slices_share_a_guide_or_have_their_own():
    src = torch.from_numpy(image((2, 3, 20, 30), seed=1))
    guides = torch.from_numpy(image((2, 3, 20, 30), seed=2))
    for guide in (guides[0, 0], guides[:, :1], guides[:1], guides[0], guides, guides[0, :1]):
        together = wls_solve(src, guide, tol=1e-9)
        for b in range(2):
            for c in range(3):
                own = guide.expand(2, 3, 20, 30)[b, c]
                assert torch.equal(together.solution[b, c], wls_filter(src[b, c], own, tol=1e-9))
        assert torch.equal(WLSSystem(guide).solve(src, tol=1e-9).solution, together.solution)


def test_a_system_serves_several_sources():
    guide = image((50, 40), "steps")
    system = WLSSystem(guide, lambda_=5.0, alpha=1.4, eps=1e-3)
    for seed in range(3):
        src = image((50, 40), seed=seed)
        result = system.solve(src, tol=1e-8)
        assert np.array_equal(result.solution, wls_filter(src, guide, lambda_=5.0, alpha=1.4, eps=1e-3, tol=1e-8))
        assert 0 < result.iterations < 50
        assert result.residual <= 1e-8


def test_single_pixels():
    """One unknown: nothing is conjugate to the first direction, and rounding its source leaves something to do."""
    src = np.random.default_rng(0).random((60, 1, 1))
    np.testing.assert_allclose(wls_filter(src, np.ones((1, 1)), tol=1e-13), src, rtol=1e-13)
    np.testing.assert_allclose(wls_filter(src, src, tol=1e-13), src, rtol=1e-13)


def test_what_leaves_an_image_as_it_is():
    src = image((20, 30))
    np.testing.assert_allclose(wls_filter(src, lambda_=0.0, tol=1e-14), src, rtol=1e-14)
    np.testing.assert_allclose(wls_filter(np.full((20, 30), 0.7), src, tol=1e-10), 0.7, rtol=1e-7)
    assert np.array_equal(wls_filter(np.zeros((20, 30)), src), np.zeros((20, 30)))
    black = wls_filter(src, np.zeros((20, 30)), lambda_=1e3, tol=smallest_tolerance(1e3))  # one area: nearly the mean
    np.testing.assert_allclose(black, src.mean(), atol=1e-3)


@pytest.mark.parametrize("shape", ((0, 4, 5), (2, 0, 4, 5)))
def test_no_slices(shape):
    assert wls_filter(torch.ones(shape), torch.ones(4, 5)).shape == shape
    assert wls_solve(torch.ones(shape), torch.ones(4, 5)).iterations == 0


# ---- gradients


def test_gradients():
    guide = torch.from_numpy(image((5, 6), "steps"))
    src = torch.from_numpy(image((2, 5, 6), seed=1)).requires_grad_()
    system = WLSSystem(guide, eps=0.1)  # moderate weights: finite differences need more digits than 1e-10
    for function in (
        lambda t: wls_filter(t, guide, eps=0.1, tol=1e-14),
        lambda t: system.solve(t, tol=1e-14).solution,
    ):
        assert torch.autograd.gradcheck(function, (src,))
        assert torch.autograd.gradgradcheck(function, (src,))


def test_gradient_of_half_precision_has_its_dtype():
    src = torch.rand(4, 5, dtype=torch.float16, requires_grad=True)
    wls_filter(src).float().sum().backward()
    assert src.grad is not None and src.grad.dtype == torch.float16
    torch.testing.assert_close(src.grad, torch.ones_like(src.grad), atol=2e-3, rtol=0)  # smoothing keeps the sum


def test_a_gradient_of_nan_is_named():
    src = torch.rand(4, 5, requires_grad=True)
    with pytest.raises(ValueError, match="the gradient has 20 values that are NaN"):
        (wls_filter(src) * float("nan")).sum().backward()


def test_reference_gives_the_gradient_of_the_guide():
    guide = torch.rand(4, 5, dtype=torch.float64).requires_grad_()
    with pytest.raises(ValueError, match="guide requires a gradient"):
        wls_filter(torch.rand(4, 5), guide)
    src = torch.rand(4, 5, dtype=torch.float64)
    with fastseg.backend("reference"):  # with eps this large the derivative of |d|^alpha is tame
        assert torch.autograd.gradcheck(
            lambda g: wls_filter(src, g, alpha=2.0, eps=0.1, tol=1e-12), (guide,), atol=1e-4, rtol=1e-3
        )


# ---- contract


def test_opcheck():
    guide, src = torch.rand(6, 7), torch.rand(2, 6, 7)
    torch.library.opcheck(wls._filter_op, (src, guide, 1.0, 1.2, 1e-4, 1e-6, 100, "error", "src"))


def test_compile_without_break_or_recompile():
    torch._dynamo.reset()
    function = torch.compile(lambda x, g: wls_filter(x * 2, g, tol=1e-9).sum(0), fullgraph=True, dynamic=True)
    for size, stance in ((8, "default"), (10, "fail_on_recompile")):
        x = torch.rand(2, size, size + 1, dtype=torch.float64, requires_grad=True)
        guide = torch.rand(size, size + 1, dtype=torch.float64)
        with torch.compiler.set_stance(stance):
            y = function(x, guide)
        torch.testing.assert_close(y, wls_filter(x * 2, guide, tol=1e-9).sum(0))
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, torch.full_like(x, 2.0), atol=1e-6, rtol=0)


def test_same_bits_for_every_number_of_threads():
    src = image((150, 170), "steps").astype(np.float32)
    results = for_thread_counts((1, 2, 3, 4), lambda: wls_filter(src, tol=1e-7))
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_backends():
    src, guide = torch.rand(9, 8), torch.rand(9, 8)
    with fastseg.backend("reference"):
        slow = wls_filter(src, guide, tol=1e-9)
        of_system = WLSSystem(guide).solve(src, tol=1e-9).solution
    torch.testing.assert_close(wls_filter(src, guide, tol=1e-9), slow, atol=1e-5, rtol=0)
    assert torch.equal(slow, of_system)
    with fastseg.backend("cuda"), pytest.raises(fastseg.BackendError, match="this op has no such kernel"):
        wls_filter(src, guide)


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "direct_solve or neighbours")


# ---- decomposition


@pytest.mark.parametrize("iterated", (True, False))
def test_decomposition(iterated):
    picture = image((30, 40), "steps")
    layers = wls_decompose(picture, 3, lambda_=0.5, factor=3.0, iterated=iterated, tol=1e-9)
    assert len(layers.bases) == 4 and len(layers.details) == 3
    assert layers.bases[0] is picture
    np.testing.assert_allclose(layers.bases[3] + sum(layers.details), picture, atol=1e-12)
    for level in range(3):
        source = layers.bases[level] if iterated else picture
        expected = direct(source, source, 0.5 * 3.0**level, 1.2, 1e-4)
        assert np.abs(layers.bases[level + 1] - expected).max() <= largest_error(source, 1e-9)


def test_decomposition_smooths_the_guide_along():
    colour = torch.from_numpy(image((3, 20, 30)))
    grey = colour.mean(0)
    layers = wls_decompose(colour, 2, guide=grey, tol=1e-9)
    of_grey = wls_decompose(grey, 1, tol=1e-9)
    torch.testing.assert_close(layers.bases[1], wls_filter(colour, grey, tol=1e-9))
    torch.testing.assert_close(layers.bases[2], wls_filter(layers.bases[1], of_grey.bases[1], lambda_=2.0, tol=1e-9))


# ---- errors


@pytest.mark.parametrize(
    "change,message",
    (
        (
            {"src": torch.tensor([[1.0, float("nan")]])},
            r"src has 1 values that are NaN or infinite, the first at \(0, 1\)",
        ),
        ({"guide": torch.tensor([[float("inf"), 1.0]])}, r"guide has 1 values that are NaN or infinite"),
        ({"guide": torch.tensor([[-0.5, 1.0]])}, r"guide holds -0.5, expected numbers >= 0"),
        ({"guide": torch.ones(2, 2)}, r"src has shape \(1, 2\), expected the guide's height and width \(2, 2\)"),
        (
            {"guide": torch.ones(3, 1, 2)},
            r"guide has shape \(3, 1, 2\), expected one that broadcasts to src's \(1, 2\)",
        ),
        ({"guide": torch.ones(2)}, r"guide has shape \(2,\), expected \(\.\.\., H, W\)"),
        ({"src": torch.ones(0, 2)}, r"src has shape \(0, 2\), expected \(\.\.\., H, W\) with at least one pixel"),
        ({"lambda_": -1.0}, r"lambda_ is -1.0, expected a finite number >= 0"),
        ({"lambda_": float("nan")}, r"lambda_ is nan"),
        ({"alpha": 0.0}, r"alpha is 0.0, expected a finite number > 0"),
        ({"eps": 0.0}, r"eps is 0.0, expected a finite number > 0"),
        ({"tol": 0.0}, r"tol is 0.0, expected a number between 0 and 1"),
        ({"max_iterations": 0}, r"max_iterations is 0, expected at least 1"),
        ({"on_failure": "ignore"}, r"on_failure is 'ignore', expected one of 'error', 'warn'"),
    ),
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_errors(change, message):
    arguments = {"src": torch.ones(1, 2), "guide": torch.ones(1, 2), **change}
    with pytest.raises(ValueError, match=message):
        wls_filter(arguments.pop("src"), arguments.pop("guide"), **arguments)


def test_too_many_pixels():
    huge = torch.ones(1).expand(1 << 21, 1 << 20)
    with pytest.raises(ValueError, match="expected at most 2\\^40 pixels"):
        wls_filter(huge)


def test_errors_of_kind():
    with pytest.raises(TypeError, match=r"src is torch\.complex64, expected real numbers"):
        wls_filter(torch.ones(2, 2, dtype=torch.complex64), torch.ones(2, 2))
    with pytest.raises(TypeError, match=r"image is torch\.uint8, expected floating point"):
        wls_decompose(torch.ones(2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="levels is 0, expected at least 1"):
        wls_decompose(torch.ones(2, 2), 0)


def test_not_reaching_the_tolerance_is_never_silent():
    src = image((60, 70), "steps")
    with pytest.raises(WLSConvergenceError, match=r"the residual of slice 0 is .* after 2 steps, expected at most tol"):
        wls_filter(src, max_iterations=2)
    with pytest.warns(WLSConvergenceWarning, match="after 2 steps"):
        result = wls_solve(src, max_iterations=2, on_failure="warn")
    assert result.iterations == 2 and result.residual > 1e-5
    with pytest.raises(WLSConvergenceError):
        WLSSystem(src).solve(src, max_iterations=2)
