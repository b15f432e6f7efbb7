"""Channel and spatial attention on CPU: every layout and dtype against the float64 reference."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg.backends import cbam_call, cpu_cbam
from fastseg.ops import cbam, channel_attention, spatial_attention
from tests.ops.cbam_cases import CASES, HIDDEN, dense, exact, gradients, parameters_of, sizes_of_terms, spatial
from tests.support import (
    DTYPES,
    LAYOUTS,
    assert_same_bits,
    assert_within_budget,
    for_thread_counts,
    in_layout,
    pairwise,
    poison,
    rerun_with_capability,
)

SHAPES = (
    (4, 3, 1, 1),
    (2, 5, 9, 11),
    (1, 33, 17, 19),  # channels that fill no vector
    (3, 16, 1, 37),
    (2, 4, 5, 6, 7),
    (1, 9, 40, 41),  # several blocks, a ragged last one
    (1, 70, 3, 500),  # several vectors of channels
    (1, 2, 260, 260),  # more than one chunk of a row
)


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu_cbam, "new_output")
    for name in ("new_saved", "new_gradients"):
        poison_all(monkeypatch, cpu_cbam, name)


def poison_all(monkeypatch, module, name):
    allocate = getattr(cbam_call, name)

    def poisoned(*args, **kwargs):
        tensors = allocate(*args, **kwargs)
        for t in tensors:
            t.fill_(float("nan") if t.is_floating_point() else 77)
        return tensors

    monkeypatch.setattr(module, name, poisoned)


def check(
    case: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    kernel: int = 3,
    seed: int = 0,
    hidden: int = HIDDEN,
) -> None:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    # 16-bit networks keep their parameters in float32; torch refuses the mix: the peer has all in 16 bit.
    parameter_dtype = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    parameters = [
        p.to(dtype).to(parameter_dtype) for p in parameters_of(case, shape, torch.float64, kernel, seed, hidden)
    ]
    x, grad = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    ours = gradients(CASES[case].fused, [in_layout(x, layout), *parameters], in_layout(grad, layout))
    truth = exact(case, [x, *parameters], grad)
    peer = peer_of(case, [x, *parameters], grad, truth)
    sizes = sizes_of_terms(case, [x, *parameters], grad, truth)
    assert ours[0].dtype == dtype
    compare(case, ours, truth, peer, sizes)


def compare(case: str, ours: list[Tensor], truth: list[Tensor], peer: list[Tensor], sizes: list[float]) -> None:
    """The budget of each result. Gradients of parameters have a few numbers each, too few to tell by how much torch
    errs: its error is taken from all of them together, relative to the numbers that they add up."""
    for name, a, t, p, terms in zip(("y", "dx"), ours, truth, peer, sizes, strict=False):
        assert_within_budget(a, t, p, f"{case} {name}", terms=terms)
    sizes = [max(size, t.abs().max().item(), 1e-300) for size, t in zip(sizes, truth, strict=True)]
    together = [
        torch.cat([t.double().flatten() / s for t, s in zip(list_[2:], sizes[2:], strict=True)])
        for list_ in (ours, truth, peer)
    ]
    if ours[0].dtype != torch.float64:
        together[0] = together[0].float()
    assert_within_budget(*together, f"{case} parameters", terms=1.0)


def peer_of(case: str, inputs: list[Tensor], grad: Tensor, truth: list[Tensor], runs: int = 3) -> list[Tensor]:
    """torch's own results in x's dtype: the truth and torch's error.

    In float64 torch's results are the truth: their error is that in float32, scaled. In float32 it is the largest of
    some runs with other x and gradients: sums of few numbers are right by luck in one run and not in the next, and the
    roundings of what is made of x alone stay where only the gradient changes.
    """
    dtype = inputs[0].dtype
    if dtype in (torch.bfloat16, torch.float16):
        return gradients(CASES[case].peer, [t.to(dtype) for t in inputs], grad)
    rounded = [t.float() for t in inputs]
    scale = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    generator = torch.Generator().manual_seed(0)
    worst = [torch.zeros_like(t) for t in truth]
    for _ in range(runs):
        x, near = ((t * (1 + 0.01 * torch.randn(t.shape, generator=generator))).float() for t in (rounded[0], grad))
        others = [x, *rounded[1:]]
        single, wide = gradients(CASES[case].peer, others, near), exact(case, others, near)
        errors = [scale * (s.double() - w) for s, w in zip(single, wide, strict=True)]
        worst = [e if e.abs().max() > w.abs().max() else w for e, w in zip(errors, worst, strict=True)]
    return [t + w for t, w in zip(truth, worst, strict=True)]


@pytest.mark.parametrize(("shape", "dtype", "layout"), pairwise(SHAPES, DTYPES, LAYOUTS), ids=str)
def test_forward_and_backward_match_float64(shape, dtype, layout):
    for case in CASES:
        check(case, shape, dtype, layout)


@pytest.mark.parametrize("kernel", (1, 3, 7))
@pytest.mark.parametrize("shape", ((2, 6, 13, 5), (1, 4, 3, 9, 8)), ids=str)
def test_kernels(shape, kernel):
    for case in ("cbam", "normalized"):
        check(case, shape, torch.float32, "contiguous", kernel)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize(
    ("shape", "hidden"),
    (((5, 37, 3, 4), 1), ((5, 37, 3, 4), 8), ((3, 130, 2, 2, 3), 21), ((8, 300, 2, 2), 70)),
    ids=str,
)
def test_sizes_of_the_dense_layers(shape, hidden, dtype):
    for case in ("cbam", "squeeze"):
        check(case, shape, dtype, "contiguous", hidden=hidden)


def test_wide_dense_layers_do_not_depend_on_threads():
    shape = (8, 300, 2, 2)  # several tasks each
    inputs = [torch.randn(shape), *parameters_of("cbam", shape, torch.float32, hidden=70)]
    grad = torch.randn(shape)
    assert_same_bits(for_thread_counts((1, 2, 3, 4), lambda: gradients(CASES["cbam"].fused, inputs, grad)))


@settings(max_examples=40, deadline=None)
@given(
    case=st.sampled_from(tuple(CASES)),
    size=st.lists(st.integers(1, 24), min_size=2, max_size=3),
    batch=st.integers(2, 3),
    channels=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS[:3]),
    seed=st.integers(0, 2**31),
)
def test_random_shapes(case, size, batch, channels, layout, seed):
    check(case, (batch, channels, *size), torch.float32, layout, seed=seed)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", tuple(CASES))
def test_groups_of_images_and_streamed_outputs(case, layout):
    # 6 MB an image: two are a group, the third is one alone, and outputs go past the caches. So many numbers need few
    # runs to tell by how much torch errs.
    shape = (3, 32, 224, 224)
    generator = torch.Generator().manual_seed(1)
    x, grad = (in_layout(torch.randn(shape, generator=generator), layout) for _ in range(2))
    parameters = parameters_of(case, shape, torch.float32)
    ours = gradients(CASES[case].fused, [x, *parameters], grad)
    truth = exact(case, [x, *parameters], grad)
    peer = peer_of(case, [x, *parameters], grad, truth, runs=1)
    sizes = sizes_of_terms(case, [x, *parameters], grad, truth, runs=2)
    compare(case, ours, truth, peer, sizes)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("case", [case for case in CASES if case != "normalized"])
def test_images_too_large_for_a_group(case, layout):
    # 24 MB an image. Statistics of the "normalized" are of all images.
    shape = (2, 96, 256, 256)
    x, grad = (in_layout(torch.randn(shape), layout) for _ in range(2))
    parameters = parameters_of(case, shape, torch.float32)
    both = gradients(CASES[case].fused, [x, *parameters], grad)[:2]
    alone = [gradients(CASES[case].fused, [x[i : i + 1], *parameters], grad[i : i + 1])[:2] for i in range(2)]
    assert_same_bits([both, [torch.cat(halves) for halves in zip(*alone, strict=True)]])


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("shape", ((2, 40, 9, 11), (1, 3, 300, 300)), ids=str)
def test_gradients_of_ties_go_to_the_first_index(shape, layout):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, shape, generator=generator).float()
    grad = torch.randn(shape, generator=generator)
    weight = parameters_of("spatial", shape, torch.float32)
    for case, parameters in (("spatial", weight), ("channel", parameters_of("channel", shape, torch.float32))):
        ours = gradients(CASES[case].fused, [in_layout(x, layout), *parameters], grad)[1]
        theirs = gradients(CASES[case].peer, [x, *parameters], grad)[1]
        torch.testing.assert_close(ours, theirs)
        shared = gradients(partial(amax_attention, case), [x, *parameters], grad)[1]
        assert (shared - theirs).abs().max() > 1e-4, "sharing among ties would be seen"


def amax_attention(case: str, x: Tensor, *parameters: Tensor) -> Tensor:
    """With torch.amax, which shares the gradient among ties."""
    if case == "spatial":
        maps = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(F.conv2d(maps, *parameters, padding=1))
    fc1, fc2 = parameters
    logits = [F.relu(pool @ fc1.T) @ fc2.T for pool in (x.mean((2, 3)), x.amax((2, 3)))]
    return x * torch.sigmoid(logits[0] + logits[1])[..., None, None]


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_nan_passes_through(layout):
    x = torch.randn(2, 20, 8, 8)
    x[1, 2, 3, 4] = float("nan")
    fc1, fc2, weight = torch.randn(3, 20), torch.randn(20, 3), torch.randn(1, 2, 3, 3)
    y = channel_attention(in_layout(x, layout), fc1, fc2)
    assert y[1].isnan().all() and not y[0].isnan().any()
    y = spatial_attention(in_layout(x, layout), weight)
    assert y[1, :, 2:5, 3:6].isnan().all() and y.isnan().sum() == 9 * 20
    y = cbam(in_layout(x, layout), fc1, fc2, weight)
    assert y[1].isnan().all() and not y[0].isnan().any()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_infinite_pixels(layout):
    x = torch.full((1, 17, 4, 5), float("-inf"))
    x[:, :, 0, 0] = 1
    y = spatial_attention(in_layout(x, layout), torch.ones(1, 2, 1, 1))
    torch.testing.assert_close(y[0, 0, 0, 0], torch.sigmoid(torch.tensor(2.0)))
    assert y[0, :, 1:].isnan().all()  # -inf * sigmoid(-inf)


def test_memory_format_is_kept():
    fc1, fc2, weight = torch.randn(3, 5), torch.randn(5, 3), torch.randn(1, 2, 3, 3)
    x = torch.randn(2, 5, 6, 7).to(memory_format=torch.channels_last).requires_grad_()
    y = cbam(x, fc1, fc2, weight)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(y, x, torch.randn(2, 5, 6, 7))
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_expanded_and_sliced_gradients():
    x = torch.randn(2, 4, 9, 10, requires_grad=True)
    parameters = parameters_of("cbam", x.shape, torch.float32)
    y = CASES["cbam"].fused(x, *parameters)
    full, wide = torch.full_like(y, 0.7), torch.randn(2, 9, 9, 10)
    for grad in (torch.tensor(0.7).expand_as(full), wide[:, 3:7]):
        ours = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
        same = torch.autograd.grad(y, x, grad.contiguous(), retain_graph=True)[0]
        torch.testing.assert_close(ours, same, rtol=0, atol=0)


@pytest.mark.parametrize("training", (False, True))
def test_batch_norm_is_torchs(training):
    shape = (3, 8, 7, 9)
    fc1, fc2, weight = parameters_of("cbam", shape, torch.float64)[:5:2]
    theirs, ours = (torch.nn.BatchNorm2d(1, momentum=0.3).double().train(training) for _ in range(2))
    for step in range(3):
        x, grad = torch.randn(shape, dtype=torch.float64) + step, torch.randn(shape, dtype=torch.float64)

        def peer(x, fc1, fc2, weight, gamma, beta):
            x = x * dense(x, fc1, fc2, None, None, True)
            logit = spatial(x, weight, None, "max_mean")
            return x * torch.sigmoid(
                F.batch_norm(logit, theirs.running_mean, theirs.running_var, gamma, beta, training, 0.3)
            )

        def fused(x, fc1, fc2, weight, gamma, beta):
            running = {"running_mean": ours.running_mean, "running_var": ours.running_var}
            norm = {"normalize": True, "norm_weight": gamma, "norm_bias": beta, "training": training, "momentum": 0.3}
            return cbam(x, fc1, fc2, weight, order="max_mean", **norm, **running)

        inputs = [x, fc1, fc2, weight, torch.tensor([0.8]).double(), torch.tensor([0.1]).double()]
        for a, b in zip(gradients(fused, inputs, grad), gradients(peer, inputs, grad), strict=True):
            torch.testing.assert_close(a, b)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_deterministic_and_independent_of_threads(layout, case):
    shape = (2, 17, 150, 100)
    x, grad = (in_layout(torch.randn(shape), layout) for _ in range(2))
    inputs = [x, *parameters_of(case, shape, torch.float32)]
    assert_same_bits(for_thread_counts((1, 2, 3, 2, 2), lambda: gradients(CASES[case].fused, inputs, grad)))


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(
        __file__, capability, "match_float64 or dense_layers or ties or nan_passes or (groups and scse)"
    )


def test_reference_is_the_definition():
    """Against code that users write, in float64."""
    with fastseg.backend("reference"):
        for case, c in CASES.items():
            x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
            inputs = [x, *parameters_of(case, x.shape, torch.float64)]
            torch.testing.assert_close(c.fused(*inputs), c.peer(*inputs))
