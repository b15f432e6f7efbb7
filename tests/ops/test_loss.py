"""The losses on CPU: layouts, dtypes and kinds of truth against the float64 definition, MONAI's, and the contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastseg
from fastseg import ops
from fastseg.backends import cpu_loss
from fastseg.ops import dice_cross_entropy, focal_tversky, generalized_dice, tversky
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
    (2, 3, 7),  # rank 3
    (1, 1, 1),
    (2, 4, 9, 11),
    (1, 33, 17, 19),
    (3, 2, 1, 37),
    (2, 5, 5, 6, 7),
    (1, 2, 3, 4, 3, 5),  # rank 6
    (1, 4, 71, 73),  # two slots of voxels
    (2, 300, 9, 10),  # blocks of few voxels
    (1, 9000, 2, 3),  # more classes than a block has room for
)
LOSSES: dict[str, Callable[..., Tensor]] = {
    "dice + cross-entropy": dice_cross_entropy,
    "dice": partial(dice_cross_entropy, ce_weight=0.0, smooth=1.0, batch=True),
    "cross-entropy": partial(dice_cross_entropy, dice_weight=0.0),
    "tversky": partial(tversky, fp_weight=0.2, fn_weight=0.9, smooth=0.5),
    "focal tversky": partial(focal_tversky, batch=True, ce_weight=0.5),
    "generalized dice": partial(generalized_dice, ce_weight=0.25),
    "generalized dice, batch": partial(generalized_dice, batch=True),
}
OUTPUTS = ("softmax", "sigmoid")
LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64, torch.float16)
#: The same map of classes (N, H, W) in another place; expanded, where it is the same along both axes.
PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "(N, *spatial)": lambda t: t,
    "(N, 1, *spatial)": lambda t: t[:, None],
    "permuted": lambda t: t.mT.contiguous().mT,
    "sliced": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    "expanded": lambda t: t[:, :1, :1].expand(t.shape),
}
REGIONS = (torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64, torch.bfloat16)


@pytest.fixture(autouse=True)
def nan_poisoned_outputs(monkeypatch):
    poison(monkeypatch, cpu_loss, "empty_like")
    poison(monkeypatch, torch, "empty")


def drawn(
    shape: tuple[int, ...], output: str, dtype: torch.dtype = torch.float32, layout: str = "contiguous", seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    logits = 2 * torch.randn(shape, generator=generator)
    if output == "sigmoid":
        target = torch.rand(shape, generator=generator) < 0.3
    else:
        target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return in_layout(logits.to(dtype), layout), target


def gradients(function: Callable[..., Tensor], logits: Tensor, target: Tensor) -> list[Tensor]:
    leaf = logits.detach().requires_grad_()
    loss = function(leaf, target)
    return [loss.detach(), *torch.autograd.grad(loss, leaf)]


def defined(function: Callable[..., Tensor], logits: Tensor, target: Tensor) -> list[Tensor]:
    with fastseg.backend("reference"):
        return gradients(function, logits, target)


def slopes_of(function: Callable[..., Tensor], logits: Tensor, target: Tensor) -> float:
    """The largest of what gradients are added up from: the slopes of the loss by a voxel's probabilities, with the
    definition's own arithmetic."""
    sums = []
    softmax, sigmoid = torch.softmax, torch.sigmoid

    def kept(p: Tensor) -> Tensor:
        p.retain_grad()
        sums.append(p)
        return p

    with pytest.MonkeyPatch.context() as patch, fastseg.backend("reference"):
        patch.setattr(torch, "softmax", lambda *a: kept(softmax(*a)))
        patch.setattr(torch, "sigmoid", lambda *a: kept(sigmoid(*a)))
        function(logits.double().detach().requires_grad_(), target).backward()
    return max((0.0 if p.grad is None else p.grad.abs().max().item() for p in sums), default=0.0)


def check(function: Callable[..., Tensor], logits: Tensor, target: Tensor, what: str = "") -> None:
    ours, peer = gradients(function, logits, target), defined(function, logits, target)
    exact = defined(function, logits.double(), target)
    assert ours[0].dtype == torch.promote_types(logits.dtype, torch.float32) and ours[0].shape == ()
    assert ours[1].dtype == logits.dtype and ours[1].shape == logits.shape
    assert_within_budget(ours[0], exact[0], peer[0], f"loss {what}", terms=1.0)
    assert_within_budget(ours[1], exact[1], peer[1], f"dlogits {what}", terms=slopes_of(function, logits, target))


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "layout", "output"), pairwise(LOSSES, SHAPES, DTYPES, LAYOUTS, OUTPUTS), ids=str
)
def test_value_and_gradient_match_float64(name, shape, dtype, layout, output):
    logits, target = drawn(shape, output, dtype, layout)
    check(partial(LOSSES[name], output=output), logits, target)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    spatial=st.lists(st.integers(1, 90), min_size=1, max_size=4).filter(lambda s: torch.Size(s).numel() < 10_000),
    batch=st.integers(1, 3),
    classes=st.integers(1, 12),
    name=st.sampled_from(sorted(LOSSES)),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    output=st.sampled_from(OUTPUTS),
    options=st.fixed_dictionaries({"batch": st.booleans()}, optional={"include_background": st.just(False)}),
    seed=st.integers(0, 2**31),
)
def test_random_shapes(spatial, batch, classes, name, dtype, layout, output, options, seed):
    if classes == 1:
        options = {"batch": options["batch"]}
    logits, target = drawn((batch, classes, *spatial), output, dtype, layout, seed)
    check(partial(LOSSES[name], output=output, **options), logits, target, f"{(batch, classes, *spatial)} {options}")


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_gradients_past_the_caches(layout, output):
    logits, target = drawn((2, 4, 767, 701), output, torch.float32, layout)
    check(partial(dice_cross_entropy, output=output), logits, target)


@pytest.mark.parametrize("dtype", LABELS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_maps_of_classes(dtype, place):
    logits, target = drawn((2, 4, 9, 11), "softmax")
    if place == "expanded":
        target = target[:, :1, :1].expand(target.shape)
    expected = gradients(dice_cross_entropy, logits, target)
    target = PLACES[place](target.to(dtype))
    for a, b in zip(gradients(dice_cross_entropy, logits, target), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", REGIONS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_regions(dtype, layout):
    logits, target = drawn((2, 3, 9, 11), "sigmoid")
    function = partial(dice_cross_entropy, output="sigmoid")
    expected = gradients(function, logits, target)
    moved = in_layout(target.float(), layout).to(dtype) if layout == "channel_slice" else in_layout(target, layout)
    for a, b in zip(gradients(function, logits, moved.to(dtype)), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", LOSSES)
def test_soft_regions(name):
    logits, target = drawn((2, 3, 19, 21), "sigmoid")
    check(partial(LOSSES[name], output="sigmoid"), logits, 0.25 + 0.5 * target.float())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ignored", (-1, 2, 255))
def test_ignored_voxels_count_nowhere(name, ignored):
    logits, target = drawn((2, 4, 30, 31), "softmax")
    where = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    function = partial(LOSSES[name], ignore_index=ignored)
    target[where] = ignored
    check(function, logits, target)
    for run in (gradients, defined):
        before = run(function, logits, target)
        after = run(function, logits.masked_fill((target == ignored)[:, None], float("nan")), target)
        assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
        assert not before[1].movedim(1, -1)[target == ignored].any()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_counts(name):
    logits, target = drawn((2, 4, 5, 6), "softmax")
    loss, dlogits = gradients(partial(LOSSES[name], ignore_index=7), logits, torch.full_like(target, 7))
    assert loss == (pytest.approx(1e-7**0.75) if name == "focal tversky" else 0) and not dlogits.any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", ("balanced", (0.5, 0.0, 2.0, 1.0), torch.tensor([3.0, 1.0, 0.0, 0.25])))
def test_class_weights(name, weights):
    logits, target = drawn((2, 4, 20, 21), "softmax")
    check(partial(LOSSES[name], class_weights=weights), logits, target)
    check(partial(LOSSES[name], class_weights=weights), logits, torch.where(target == 2, 0, target))


def test_all_weights_of_a_batch_zero():
    logits, target = drawn((2, 4, 20, 21), "softmax")
    function = partial(dice_cross_entropy, dice_weight=0.0, class_weights=(0, 1, 1, 1))
    loss, dlogits = gradients(function, logits, torch.zeros_like(target))
    assert loss == 0 and not dlogits.any()


@pytest.mark.parametrize("truth", ("empty", "full", "own"))
@pytest.mark.parametrize("scale", (0.0, 1.0, 500.0))
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_at_the_edges(name, output, scale, truth):
    """No class or region in the truth, nothing else, or just what is predicted, from "no idea" to "certain"."""
    logits, target = drawn((2, 4, 9, 11), output)
    if truth == "own":
        target = logits > 0 if output == "sigmoid" else logits.argmax(1)
    else:
        target = torch.full_like(target, 0 if truth == "empty" else 1 if output == "sigmoid" else 3)
    check(partial(LOSSES[name], output=output), scale * logits, target)
    assert all(torch.isfinite(t).all() for t in gradients(partial(LOSSES[name], output=output), scale * logits, target))


@pytest.mark.parametrize("backend", ("cpu", "reference"))
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_nan_logits(name, output, backend):
    logits, target = drawn((2, 3, 50), output)
    logits[0, 1, 3] = float("nan")
    with fastseg.backend(backend):
        assert LOSSES[name](logits, target, output=output).isnan()


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_infinite_logits(name, output):
    """As very large ones, where the truth agrees."""
    logits, target = drawn((2, 3, 50), output)
    function = partial(LOSSES[name], output=output)
    logits[0, 1, 3:5] = -float("inf")
    if output == "softmax":
        target[0, 3:5] = 0
    else:
        target[0, 1, 3:5] = False
        logits[1, 2, 7], target[1, 2, 7] = float("inf"), True
    torch.testing.assert_close(function(logits, target), defined(function, logits.clamp(-1e4, 1e4), target)[0])


def test_infinite_and_wrong():
    logits, target = drawn((2, 3, 50), "sigmoid")
    logits[0, 1, 3], target[0, 1, 3] = float("inf"), False
    assert dice_cross_entropy(logits, target, output="sigmoid") == float("inf")


@pytest.mark.parametrize("backend", ("cpu", "reference"))
@pytest.mark.parametrize("dtype", (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.bfloat16))
def test_numbers_that_a_dtype_wraps(dtype, backend):
    """-100 as a byte is 156, 300 in bfloat16 lies between its neighbours."""
    classes = {torch.uint8: 200, torch.int8: 100}.get(dtype, 600)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, classes, 20, 20, generator=generator)
    target = (4 * torch.randint(classes // 4, (1, 20, 20), generator=generator)).to(dtype)
    with fastseg.backend(backend):
        ours = gradients(dice_cross_entropy, logits, target)
    for a, b in zip(ours, gradients(dice_cross_entropy, logits, target.long()), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layout", ("contiguous", "permuted"))
def test_a_copy_is_made_once(layout, monkeypatch):
    logits, target = drawn((2, 4, 9, 11), "softmax", layout=layout)
    copies: list[Tensor] = []
    contiguous = Tensor.contiguous
    monkeypatch.setattr(Tensor, "contiguous", lambda t: copies.append(t) or contiguous(t))
    gradients(dice_cross_entropy, logits, target.half())
    assert len([t for t in copies if t.ndim == 4 and t.shape[1] == 4]) == (layout == "permuted")


def test_as_monai():
    losses = pytest.importorskip("monai.losses")
    logits, target = drawn((2, 4, 12, 13, 14), "softmax", torch.float64)
    labels = target[:, None]
    alike = {
        losses.DiceLoss(softmax=True, to_onehot_y=True): partial(dice_cross_entropy, ce_weight=0.0),
        losses.DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True, lambda_ce=0.5): partial(
            dice_cross_entropy, include_background=False, batch=True, ce_weight=0.5
        ),
        losses.TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7): partial(
            tversky, fp_weight=0.3, fn_weight=0.7
        ),
    }
    for theirs, ours in alike.items():
        for a, b in zip(gradients(ours, logits, labels), gradients(theirs, logits, labels), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)
    logits, target = drawn((2, 3, 12, 13, 14), "sigmoid", torch.float64)
    theirs = losses.DiceLoss(sigmoid=True, batch=True)
    ours = partial(dice_cross_entropy, output="sigmoid", batch=True, ce_weight=0.0)
    for a, b in zip(gradients(ours, logits, target), gradients(theirs, logits, target.double()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_deterministic_and_independent_of_threads(layout, output):
    logits, target = drawn((2, 5, 170, 190), output, layout=layout)
    function = partial(dice_cross_entropy, output=output)
    assert_same_bits(for_thread_counts((1, 2, 3, 4, 4), lambda: gradients(function, logits, target)))


def test_memory_format_and_upstream_gradient():
    logits, target = drawn((2, 4, 6, 7), "softmax", layout="channels_last")
    logits.requires_grad_()
    (once,) = torch.autograd.grad(dice_cross_entropy(logits, target), logits)
    (scaled,) = torch.autograd.grad(1024 * dice_cross_entropy(logits, target), logits)
    assert once.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(1024 * once, scaled)


def test_keeps_its_inputs_and_a_few_numbers():
    saved: list[Tensor] = []
    logits, target = drawn((2, 4, 64, 64), "softmax")
    logits.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        dice_cross_entropy(logits, target)
    assert [t.data_ptr() for t in saved[:2]] == [logits.data_ptr(), target.data_ptr()]
    assert [t.numel() for t in saved[2:]] == [2 * 3 * 4]


def test_no_gradient_asked_for():
    logits, target = drawn((2, 4, 8, 9), "softmax")
    expected = dice_cross_entropy(logits, target)
    with torch.no_grad():
        loss = dice_cross_entropy(logits.requires_grad_(), target)
    assert not loss.requires_grad and torch.equal(loss, expected)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_opcheck_and_gradcheck(name, layout, output):
    logits, target = drawn((2, 3, 4, 5), output, torch.float64, layout)
    function = partial(LOSSES[name], output=output)
    assert torch.autograd.gradcheck(lambda x: function(x, target), logits.requires_grad_())
    if name != "dice + cross-entropy":
        return
    forward, backward = torch.ops.fastseg.segmentation_loss, torch.ops.fastseg.segmentation_loss_backward
    call = ("dice_cross_entropy", output == "sigmoid", -100)
    formula = (False, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0, False, True, False)
    logits, target = logits.detach(), target if output == "sigmoid" else target[:, None]
    torch.library.opcheck(forward.default, (logits, target, None, *call, *formula))
    loss, slopes = forward(logits, target, None, *call, *formula)
    torch.library.opcheck(backward.default, (torch.ones_like(loss), logits, target, slopes, *call))


@pytest.mark.parametrize("name", LOSSES)
def test_compile_without_break_or_recompile(name):
    torch._dynamo.reset()
    function = torch.compile(lambda x, t: LOSSES[name](x * 2, t), fullgraph=True, dynamic=True)
    for shape, stance in (((2, 6, 8, 9), "default"), ((3, 7, 10, 11), "fail_on_recompile")):
        logits, target = drawn(shape, "softmax")
        logits.requires_grad_()
        with torch.compiler.set_stance(stance):
            loss = function(logits, target)
        expected = LOSSES[name](logits * 2, target)
        torch.testing.assert_close(loss, expected)
        for a, b in zip(*(torch.autograd.grad(out, logits) for out in (loss, expected)), strict=True):
            torch.testing.assert_close(a, b)


def test_double_backward_is_refused():
    logits, target = drawn((1, 2, 5), "softmax", torch.float64)
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(dice_cross_entropy(logits, target).square(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()
    with fastseg.backend("reference"):
        assert torch.autograd.gradgradcheck(lambda x: dice_cross_entropy(x, target), logits)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_autocast_computes_in_float32(dtype):
    logits, target = drawn((2, 4, 9, 11), "softmax", dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = dice_cross_entropy(logits, target)
    assert loss.dtype == torch.float32 and torch.equal(loss, dice_cross_entropy(logits.float(), target))


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("dice_cross_entropy", torch.zeros(1, 2, 5))


WRONG_VALUES: dict[str, tuple[str, Any, str]] = {
    "above": ("softmax", 4, "target has the value 4, 3 such in all, expected classes from 0 to 3, or ignore_index"),
    "below": ("softmax", -1, "target has the value -1, 3 such in all"),
    "between": ("softmax", 1.5, "target has the value 1.5, 3 such in all"),
    "NaN as a class": ("softmax", float("nan"), "target has the value nan, 3 such in all"),
    "infinite": ("softmax", float("inf"), "target has the value inf, 3 such in all"),
    "large": ("sigmoid", 2.0, "target has the value 2, 3 such in all, expected numbers from 0 to 1"),
    "negative": ("sigmoid", -0.5, "target has the value -0.5, 3 such in all"),
    "NaN": ("sigmoid", float("nan"), "target has the value nan, 3 such in all"),
}


@pytest.mark.parametrize("backend", ("cpu", "reference"))
@pytest.mark.parametrize("case", WRONG_VALUES)
def test_values_that_are_no_truth(case, backend):
    output, value, message = WRONG_VALUES[case]
    logits, target = drawn((2, 4, 90, 91), output)
    target = target if isinstance(value, int) else target.float()
    target.view(-1)[[3, 5000, -1]] = value
    with pytest.raises(ValueError, match=f"dice_cross_entropy: {message}"), fastseg.backend(backend):
        dice_cross_entropy(logits, target, output=output)


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_definition_gives_nan_for_them(output):
    """As GPUs do, where an error would wait for the device."""
    from fastseg import reference

    logits, target = drawn((2, 4, 9, 11), output)
    options = {"ce_weight": 0.0, "include_background": True, "batch": False, "class_weights": None}
    target = target.float()
    target.view(-1)[3] = 9
    assert reference.generalized_dice(logits, target, output=output, ignore_index=-100, **options).isnan()


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"logits has shape \(2, 3\), expected rank 3 or more", {"logits": torch.randn(2, 3)}),
        (ValueError, r"logits has shape \(0, 3, 5\), expected at least one", {"logits": torch.randn(0, 3, 5)}),
        (TypeError, r"logits is torch.int64, expected float32", {"logits": torch.ones(2, 3, 5, dtype=torch.int64)}),
        (
            ValueError,
            r"target has shape \(2, 3, 5\), expected \(2, 5\) or \(2, 1, 5\) for logits of shape",
            {"target": torch.ones(2, 3, 5)},
        ),
        (
            ValueError,
            r"target has shape \(2, 5\), expected \(2, 3, 5\) for logits of shape \(2, 3, 5\) \(sigmoid\)",
            {"output": "sigmoid"},
        ),
        (TypeError, "target is torch.bool, expected numbers", {"target": torch.ones(2, 5, dtype=torch.bool)}),
        (TypeError, "target is torch.complex64", {"target": torch.ones(2, 5, dtype=torch.complex64)}),
        (ValueError, "target requires a gradient", {"target": torch.ones(2, 5, requires_grad=True)}),
        (ValueError, "target is on meta, expected logits's device cpu", {"target": torch.ones(2, 5, device="meta")}),
        (TypeError, "ignore_index is None, expected an int", {"ignore_index": None}),
        (ValueError, "output is 'logits', expected one of 'softmax', 'sigmoid'", {"output": "logits"}),
        (ValueError, "dice_weight is -1, expected a finite number >= 0", {"dice_weight": -1}),
        (ValueError, "ce_weight is nan, expected a finite number >= 0", {"ce_weight": float("nan")}),
        (ValueError, "smooth is 0, expected a finite number > 0", {"smooth": 0}),
        (ValueError, r"class_weights has shape \(2,\), expected \(3,\)", {"class_weights": (1, 2)}),
        (ValueError, "class_weights is -1, expected a finite number >= 0", {"class_weights": (1, -1, 1)}),
        (ValueError, "class_weights is 'even', expected one of 'balanced'", {"class_weights": "even"}),
        (
            ValueError,
            "class_weights is 'balanced', expected None for output 'sigmoid'",
            {"output": "sigmoid", "class_weights": "balanced"},
        ),
        (
            ValueError,
            "include_background is False, expected True for logits of one class",
            {"logits": torch.ones(2, 1, 5), "include_background": False},
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_errors_name_the_argument(error, message, arguments):
    good = {"logits": torch.randn(2, 3, 5), "target": torch.ones(2, 5, dtype=torch.int64)}
    with pytest.raises(error, match=f"dice_cross_entropy: {message}"):
        dice_cross_entropy(**{**good, **arguments})


@pytest.mark.parametrize("name", ("gamma", "fp_weight", "fn_weight"))
def test_errors_of_focal_tversky(name):
    with pytest.raises(ValueError, match=f"focal_tversky: {name} is -1, expected a finite number"):
        focal_tversky(*drawn((1, 2, 5), "softmax"), **{name: -1})


def test_all_are_exported():
    assert {"dice_cross_entropy", "tversky", "focal_tversky", "generalized_dice"} <= set(ops.__all__)


@pytest.mark.parametrize("capability", ("baseline", "avx2"))
def test_other_instruction_sets(capability):
    """The builds for lesser processors, in a process of their own: the choice is made once."""
    rerun_with_capability(__file__, capability, "match_float64 or caches or maps or regions or ignored or edges")
