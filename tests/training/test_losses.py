"""Losses against their formulas written out in float64, and what they do at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fastseg.models import SegmentationNetwork, list_models
from fastseg.training.losses import create_loss, default_loss, list_losses

SHAPES = {2: (3, 4, 6, 5), 3: (2, 4, 4, 3, 5)}
SIGMOID = ("region_dice", "focal_tversky")


def output_of(name: str) -> str:
    return "sigmoid" if name in SIGMOID else "softmax"


def example(output: str, dims: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dims)
    shape = SHAPES[dims]
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if output == "sigmoid":
        return logits.to(dtype), torch.rand(shape, generator=generator) < 0.3
    return logits.to(dtype), torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)


def planes(logits: Tensor, target: Tensor, output: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and truth as (N, K, voxels), by NumPy."""
    x = logits.double().numpy().reshape(*logits.shape[:2], -1)
    if output == "sigmoid":
        return 1 / (1 + np.exp(-x)), target.double().numpy().reshape(x.shape)
    e = np.exp(x - x.max(1, keepdims=True))
    classes = target.numpy().reshape(len(x), 1, -1)
    return e / e.sum(1, keepdims=True), (classes == np.arange(x.shape[1])[:, None]).astype(float)


def expected_cross_entropy(p: np.ndarray, r: np.ndarray, weights: np.ndarray | None = None) -> float:
    each = -np.log((p * r).sum(1))
    if weights is None:
        return each.mean()
    weight = (weights[:, None] * r).sum(1)
    return (weight * each).sum() / weight.sum()


def dice_terms(p: np.ndarray, r: np.ndarray, smooth: float, axes: tuple[int, ...]) -> np.ndarray:
    return (2 * (p * r).sum(axes) + smooth) / (p.sum(axes) + r.sum(axes) + smooth)


def formula(name: str, p: np.ndarray, r: np.ndarray) -> float:
    """Each loss at its defaults."""
    counts = r.sum((0, 2))
    if name == "cross_entropy":
        return expected_cross_entropy(p, r)
    if name == "dice_cross_entropy":
        dice = dice_terms(p, r, 1e-5, (0, 2))[1:].mean()
        return 0.7 * (1 - dice) + 0.3 * expected_cross_entropy(p, r)
    if name == "generalized_dice_cross_entropy":
        w = 1 / counts**2
        generalised = 2 * (w * (p * r).sum((0, 2))).sum() / (w * (p + r).sum((0, 2))).sum()
        return 1 - generalised + expected_cross_entropy(p, r, 1 / counts)
    if name == "region_dice":
        return -dice_terms(p, r, 1e-5, (2,)).mean()
    assert name == "focal_tversky"
    tp, fn, fp = (p * r).sum((0, 2)), ((1 - p) * r).sum((0, 2)), (p * (1 - r)).sum((0, 2))
    return ((1 - (tp + 1) / (tp + 0.7 * fn + 0.3 * fp + 1)) ** 0.75).mean()


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("name", list_losses())
def test_formula(name: str, dims: int) -> None:
    logits, target = example(output_of(name), dims)
    expected = formula(name, *planes(logits, target, output_of(name)))
    loss = create_loss(name)
    result = loss(logits, target)
    assert result.dtype == torch.float64 and result.shape == ()
    assert result.item() == pytest.approx(expected, rel=1e-12)
    single = loss(logits.float(), target)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", list_losses())
def test_gradient(name: str) -> None:
    logits, target = example(output_of(name))
    logits, target = logits[:2, :, :2, :2].requires_grad_(), target[:2, ..., :2, :2]
    assert torch.autograd.gradcheck(lambda x: create_loss(name)(x, target), logits)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("name", ["dice_cross_entropy", "region_dice"])
def test_batch_or_image_by_image(name: str, batch: bool) -> None:
    logits, target = example(output_of(name))
    options = {"ce_weight": 0.0, "dice_weight": 1.0} if name == "dice_cross_entropy" else {}
    p, r = planes(logits, target, output_of(name))
    terms = dice_terms(p, r, 0.5, (0, 2) if batch else (2,))
    expected = -terms.mean() if name == "region_dice" else 1 - terms[..., 1:].mean()
    result = create_loss(name, batch=batch, smooth=0.5, **options)(logits, target)
    assert result.item() == pytest.approx(expected, rel=1e-12)


def test_generalized_dice_image_by_image() -> None:
    logits, target = example("softmax")
    loss = create_loss("generalized_dice_cross_entropy", ce_weight=0, batch=False)
    together = create_loss("generalized_dice_cross_entropy", ce_weight=0)
    each = [together(logits[i : i + 1], target[i : i + 1]).item() for i in range(len(logits))]
    assert loss(logits, target).item() == pytest.approx(np.mean(each), rel=1e-12)


def test_sigmoid_of_losses_of_classes() -> None:
    logits, target = example("sigmoid")
    p, r = planes(logits, target, "sigmoid")
    entropy = -np.mean(r * np.log(p) + (1 - r) * np.log(1 - p))
    assert create_loss("cross_entropy", output="sigmoid")(logits, target).item() == pytest.approx(entropy, rel=1e-12)
    both = create_loss("dice_cross_entropy", output="sigmoid", dice_weight=2, ce_weight=3)(logits, target)
    expected = 2 * (1 - dice_terms(p, r, 1e-5, (0, 2)).mean()) + 3 * entropy
    assert both.item() == pytest.approx(expected, rel=1e-12)


def test_softmax_of_losses_of_regions() -> None:
    """region_dice counts every class, focal_tversky leaves the background out."""
    logits, target = example("softmax")
    p, r = planes(logits, target, "softmax")
    region = create_loss("region_dice", output="softmax")(logits, target)
    assert region.item() == pytest.approx(formula("region_dice", p, r), rel=1e-12)
    tversky = create_loss("focal_tversky", output="softmax")(logits, target)
    assert tversky.item() == pytest.approx(formula("focal_tversky", p[:, 1:], r[:, 1:]), rel=1e-12)


def test_tversky_of_equal_weights_is_dice() -> None:
    logits, target = example("sigmoid")
    p, r = planes(logits, target, "sigmoid")
    loss = create_loss("focal_tversky", fn_weight=0.5, fp_weight=0.5, gamma=1, smooth=0.25)
    expected = 1 - dice_terms(p, r, 0.5, (0, 2)).mean()
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)


def test_class_weights() -> None:
    logits, target = example("softmax")
    p, r = planes(logits, target, "softmax")
    given = np.array([0.5, 0, 2, 1])
    loss = create_loss("cross_entropy", class_weights=given.tolist())
    assert loss(logits, target).item() == pytest.approx(expected_cross_entropy(p, r, given), rel=1e-12)
    balanced = create_loss("cross_entropy", class_weights="balanced")
    of_each = [-np.log(p[:, k][r[:, k] == 1]).mean() for k in range(4)]
    assert balanced(logits, target).item() == pytest.approx(np.mean(of_each), rel=1e-12)
    without = torch.where(target == 2, 0, target)
    r = planes(logits, without, "softmax")[1]
    present = [-np.log(p[:, k][r[:, k] == 1]).mean() for k in (0, 1, 3)]
    assert balanced(logits, without).item() == pytest.approx(np.mean(present), rel=1e-12)


def test_all_weights_of_a_batch_zero() -> None:
    logits, target = example("softmax")
    logits.requires_grad_()
    value = create_loss("cross_entropy", class_weights=[0, 1, 1, 1])(logits, torch.zeros_like(target))
    value.backward()
    assert value.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("truth", ["empty", "full", "own"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 200.0])
@pytest.mark.parametrize("name", list_losses())
def test_gradients_are_finite_at_the_edges(name: str, scale: float, truth: str) -> None:
    """No class or region in the truth, nothing else, or just what is predicted, from "no idea" to "certain"."""
    output = output_of(name)
    logits, target = example(output, dtype=torch.float32)
    if truth == "own":
        target = logits > 0 if output == "sigmoid" else logits.argmax(1)
    else:
        value = 0 if truth == "empty" else 1 if output == "sigmoid" else 3
        target = torch.full_like(target, value)
    logits = (scale * logits).requires_grad_()
    result = create_loss(name)(logits, target)
    result.backward()
    assert torch.isfinite(result) and torch.isfinite(logits.grad).all()
    if scale and truth != "own":
        assert logits.grad.any()


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("cross_entropy", 0),
        ("dice_cross_entropy", 0),
        ("generalized_dice_cross_entropy", 0),
        ("region_dice", -1),
        ("focal_tversky", 0),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_perfect_prediction(name: str, best: float, empty: bool) -> None:
    output = output_of(name)
    target = example(output)[1]
    target = torch.zeros_like(target) if empty else target
    one_hot = torch.movedim(torch.nn.functional.one_hot(target.long(), 4), -1, 1) if output == "softmax" else target
    result = create_loss(name)(200.0 * one_hot - 100.0, target)
    # A region that is absent is told from exp(-100), and the power of the focal loss is flat below 1e-7.
    assert result.item() == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list_losses())
def test_autocast_computes_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, target = example(output_of(name), dtype=dtype)
    expected = create_loss(name)(logits.float(), target)
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = create_loss(name)(leaf, target)
    assert result.dtype == torch.float32 and torch.equal(result, expected)
    result.backward()
    assert leaf.grad is not None and leaf.grad.dtype == dtype and torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_classes_of_any_integers(dtype: torch.dtype) -> None:
    logits, target = example("softmax")
    for name in set(list_losses()) - set(SIGMOID):
        assert torch.equal(create_loss(name)(logits, target.to(dtype)), create_loss(name)(logits, target))


def test_soft_regions() -> None:
    """Truth between 0 and 1, as resampling leaves it."""
    logits, target = example("sigmoid")
    soft = 0.25 + 0.5 * target.double()
    p, r = planes(logits, soft, "sigmoid")
    assert create_loss("region_dice")(logits, soft).item() == pytest.approx(formula("region_dice", p, r), rel=1e-12)


REFUSED = {
    "rank": (lambda x, t: (x[0, 0], t), ValueError, r"logits has shape \(6, 5\)"),
    "integers as logits": (lambda x, t: (x.long(), t), TypeError, "logits is torch.int64"),
    "regions": (lambda x, t: (x, x > 0), ValueError, r"target has shape \(3, 4, 6, 5\), expected \(3, 6, 5\)"),
    "fractions": (lambda x, t: (x, t + 0.5), ValueError, "target has the value .*.5, 90 such in all"),
    "bool": (lambda x, t: (x, t > 0), TypeError, "target is torch.bool, expected numbers"),
    "unknown class": (lambda x, t: (x, t + 1), ValueError, "target has the value 4, .* expected classes from 0 to 3"),
    "ignored": (lambda x, t: (x, t - 1), ValueError, "target has the value -1, .* expected classes from 0 to 3"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", sorted(set(list_losses()) - set(SIGMOID)))
def test_what_losses_of_classes_refuse(name: str, case: str) -> None:
    change, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        create_loss(name)(*change(*example("softmax")))


def test_what_losses_of_regions_refuse() -> None:
    logits, target = example("sigmoid")
    for wrong in (target[:, :1], target[:, 0], logits.argmax(1)):
        with pytest.raises(ValueError, match=r"target has shape .* expected \(3, 4, 6, 5\)"):
            create_loss("region_dice")(logits, wrong)
    for value in (-1.0, 2.0, float("nan")):
        soft = target.double()
        soft[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match=r"target has the value .* expected numbers from 0 to 1"):
            create_loss("region_dice")(logits, soft)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dice", {}, "name is 'dice', expected one of 'cross_entropy'"),
        ("cross_entropy", {"output": "logits"}, "output is 'logits', expected one of 'softmax', 'sigmoid'"),
        ("cross_entropy", {"class_weights": "even"}, "class_weights is 'even', expected one of 'balanced'"),
        ("cross_entropy", {"class_weights": [1, -1]}, "class_weights is -1, expected a finite number >= 0"),
        ("cross_entropy", {"class_weights": [1], "output": "sigmoid"}, "expected None for output 'sigmoid'"),
        ("generalized_dice_cross_entropy", {"output": "sigmoid"}, "output is 'sigmoid', expected 'softmax'"),
        ("dice_cross_entropy", {"dice_weight": -1}, "dice_weight is -1, expected a finite number >= 0"),
        ("region_dice", {"smooth": 0}, "smooth is 0, expected a finite number > 0"),
        ("focal_tversky", {"gamma": float("nan")}, "gamma is nan, expected a finite number > 0"),
    ],
)
def test_arguments_that_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_loss(name, **options)


def test_number_of_class_weights() -> None:
    with pytest.raises(ValueError, match=r"class_weights has shape \(2,\), expected \(4,\), one number a class"):
        create_loss("cross_entropy", class_weights=[1, 2])(*example("softmax"))


def test_unknown_argument() -> None:
    with pytest.raises(TypeError, match="region_dice has no argument 'gamma', expected one of output, smooth, batch"):
        create_loss("region_dice", gamma=1)


def test_every_network_has_a_default() -> None:
    defaults = {name: default_loss(name).name for name in list_models() if name != "dm_da_unet"}
    assert defaults == {
        "resunet_ce_aspp": "cross_entropy",
        "dense_unet_2d": "generalized_dice_cross_entropy",
        "da_unet_3d": "region_dice",
        "unet": "cross_entropy",
        "unet_cbam": "cross_entropy",
        "msfen": "dice_cross_entropy",
        "resunet": "focal_tversky",
    }
    with pytest.raises(ValueError, match="'dm_da_unet', expected one of its two"):
        default_loss("dm_da_unet")
    with pytest.raises(ValueError, match="network is 'vgg', expected one of 'resunet_ce_aspp'"):
        default_loss("vgg")


def test_the_default_takes_the_output_of_the_network() -> None:
    class Stub(SegmentationNetwork):
        name = "msfen"

    network = Stub(spatial_dims=2, in_channels=1, out_channels=3, size_divisor=1, output="sigmoid")
    loss = default_loss(network, dice_weight=1.0)
    assert (loss.output, loss.name, loss.dice_weight, loss.ce_weight) == ("sigmoid", "dice_cross_entropy", 1.0, 0.3)
    assert default_loss("msfen").output == "softmax"
