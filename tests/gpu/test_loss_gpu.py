"""The losses on a GPU against float64, and beyond 2^31 elements. Triton is forced: torch's own ops come first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch

import fastseg
from fastseg.ops import dice_cross_entropy
from tests.ops.test_loss import LOSSES, OUTPUTS, SHAPES, defined, drawn, gradients, slopes_of
from tests.support import DTYPES, LAYOUTS, assert_within_budget, pairwise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

#: One has more classes than the kernels take.
ON_GPU = (*(shape for shape in SHAPES if shape[1] <= 1024), (2, 4, 64, 64, 64), (4, 19, 200, 200), (8, 2, 256, 256))


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with fastseg.backend("triton"):
        yield


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "layout", "output"), pairwise(LOSSES, ON_GPU, DTYPES, LAYOUTS, OUTPUTS), ids=str
)
def test_value_and_gradient_match_float64(name, shape, dtype, layout, output, poisoned):
    function = partial(LOSSES[name], output=output)
    logits, target = (t.cuda() for t in drawn(shape, output, dtype, layout))
    ours = gradients(function, logits, target)
    peer, exact = defined(function, logits, target), defined(function, logits.double(), target)
    # What a gradient is added up from: by probabilities, and w p - w r of the mean entropy, which may cancel.
    terms = max(slopes_of(function, logits, target), logits.shape[1] / logits.numel())
    assert_within_budget(ours[0], exact[0], peer[0], "loss", terms=1.0)
    assert_within_budget(ours[1], exact[1], peer[1], "dlogits", terms=terms)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_truth_that_is_none_makes_the_loss_nan(output):
    """Where the CPU raises an error: nobody waits for the device."""
    logits, target = (t.cuda() for t in drawn((2, 4, 90, 91), output))
    target = target.float()
    target.view(-1)[5000] = 9
    assert dice_cross_entropy(logits, target, output=output).isnan()


def test_sure_predictions():
    """Whose entropy is small: the logarithm of a number just above one, which the card's own has few digits of."""
    logits, _ = (t.cuda() for t in drawn((1, 3, 160, 161), "softmax"))
    target = logits.argmax(1)
    logits.scatter_(1, target[:, None], 9 + logits.amax(1, keepdim=True))
    function = partial(dice_cross_entropy, dice_weight=0.0)
    found, exact = gradients(function, logits, target), defined(function, logits.double(), target)
    for a, t, p in zip(found, exact, defined(function, logits, target), strict=True):
        assert_within_budget(a, t, p)


@pytest.mark.parametrize("output", OUTPUTS)
def test_more_than_two_to_the_31_elements(output):
    """The last image of nine, which lies beyond 2^31, has the gradient that it has as one of two."""
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (1, 4, 400, 500, 300)
    logits = torch.randn(shape, generator=generator, device="cuda").bfloat16()
    target = torch.randint(
        2, shape if output == "sigmoid" else shape[:1] + shape[2:], generator=generator, device="cuda"
    )
    target = target.to(torch.uint8)

    def last_of(images: int) -> tuple[torch.Tensor, torch.Tensor]:
        many, truth = (t.new_zeros((images, *t.shape[1:])) for t in (logits, target))
        many[-1], truth[-1] = logits[0], target[0]
        loss, dlogits = gradients(partial(dice_cross_entropy, output=output), many, truth)
        return loss, images * dlogits[-1]

    assert 9 * logits.numel() > 2**31
    (loss, found), (_, expected) = last_of(9), last_of(2)
    assert loss.isfinite()
    torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6 * expected.abs().max().item())
