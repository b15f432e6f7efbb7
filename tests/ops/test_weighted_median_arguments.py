"""What weighted_median owes its callers: torch's contract of an op, NumPy arrays, and errors that say what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastseg
from fastseg import reference
from fastseg.ops import weighted_median
from tests.support import picture
from tests.weighted_medians import random_mask, random_weights

OP = torch.ops.fastseg.weighted_median.default
SETTINGS = {"radius": 4, "sigma_color": 0.3, "sigma_space": 4.0}
ODD = (37, 53)


@pytest.mark.parametrize("layout", ("contiguous", "transposed"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.uint8), ids=str)
def test_opcheck(layout, dtype):
    src, guide = picture(2, 2, 5, 6, dtype=dtype), picture(2, 3, 5, 6, seed=1)
    mask, weights = random_mask(2, 1, 5, 6), random_weights(1, 2, 5, 6)
    if layout == "transposed":
        src, guide, mask, weights = src.mT, guide.mT, mask.mT, weights.mT
    for optional in ((None, None), (mask, weights)):
        torch.library.opcheck(OP, (src, guide, *optional, 2, 0.3, 2.0))


def test_compile_without_break_or_recompile():
    torch._dynamo.reset()
    function = torch.compile(
        lambda s, g, m: weighted_median(s * 2, g, mask=m, weights=m, **SETTINGS) + 1, fullgraph=True, dynamic=True
    )
    for size, stance in ((8, "default"), (10, "fail_on_recompile")):
        src, guide, mask = picture(2, size, size + 1), picture(3, size, size + 1, seed=1), random_mask(size, size + 1)
        with torch.compiler.set_stance(stance):
            filtered = function(src, guide, mask)
        assert torch.equal(filtered, weighted_median(src * 2, guide, mask=mask, weights=mask, **SETTINGS) + 1)


def test_explain(capsys):
    assert "cpu        runs" in fastseg.explain("weighted_median", picture(*ODD))


def test_forced_reference():
    src, guide = picture(2, *ODD), picture(3, *ODD, seed=1)
    with fastseg.backend("reference"):
        forced = weighted_median(src, guide, **SETTINGS)
    assert torch.equal(forced, reference.weighted_median(src, guide, **SETTINGS))


def test_no_images():
    assert weighted_median(torch.zeros(0, 4, 5), torch.zeros(4, 5)).shape == (0, 4, 5)
    assert weighted_median(torch.zeros(0, 2, 4, 5), torch.zeros(0, 3, 4, 5)).shape == (0, 2, 4, 5)
    with fastseg.backend("reference"):
        assert weighted_median(torch.zeros(0, 2, 4, 5), torch.zeros(0, 3, 4, 5)).shape == (0, 2, 4, 5)


def test_input_is_not_changed_and_not_returned():
    src = picture(*ODD)
    before = src.clone()
    for radius in (0, 3):
        result = weighted_median(src, src, radius=radius)
        result.zero_()
        assert torch.equal(src, before)


@pytest.mark.parametrize("dtype", (np.float32, np.float64, np.float16, np.uint8))
def test_numpy(dtype):
    src, guide = (picture(*ODD, seed=seed).numpy() for seed in (0, 1))
    src, mask, weights = (200 * src).astype(dtype), random_mask(*ODD).numpy(), random_weights(*ODD).numpy()
    filtered = weighted_median(src, guide, mask=mask, weights=weights, **SETTINGS)
    assert isinstance(filtered, np.ndarray) and filtered.dtype == dtype
    tensors = {"mask": torch.from_numpy(mask), "weights": torch.from_numpy(weights)}
    expected = weighted_median(torch.from_numpy(src), torch.from_numpy(guide), **tensors, **SETTINGS)
    assert np.array_equal(filtered, expected.numpy())


def message_cases():
    image, guide = torch.rand(4, 5), torch.rand(3, 4, 5)
    bad = torch.rand(4, 5)
    bad[2, 3] = float("nan")
    return (
        (TypeError, {"src": [[1.0]]}, "src is a list, expected a NumPy, CuPy or torch array"),
        (TypeError, {"src": image.long()}, "src is torch.int64, expected float32"),
        (ValueError, {"src": torch.rand(0, 5)}, r"src has shape \(0, 5\), expected .* at least one pixel"),
        (ValueError, {"guide": torch.rand(4, 5, 3)}, r"guide has shape \(4, 5, 3\), expected .* channels before"),
        (ValueError, {"guide": torch.rand(3, 4, 6)}, r"guide has shape .*, expected src's image size \(4, 5\)"),
        (ValueError, {"guide": torch.rand(2, 3, 4, 5)}, r"src has shape \(4, 5\), expected \(2, C, H, W\)"),
        (ValueError, {"guide": guide.to("meta")}, "guide is on meta, expected src's device cpu"),
        (ValueError, {"guide": guide.clone().requires_grad_()}, "guide requires grad, .* Pass guide.detach"),
        (ValueError, {"src": image.clone().requires_grad_()}, "src requires grad, .* Pass src.detach"),
        (ValueError, {"src": bad}, r"src has 1 values that are NaN or infinite, the first at \(2, 3\)"),
        (ValueError, {"guide": bad / 0}, "guide has 20 values that are NaN or infinite"),
        (TypeError, {"mask": image}, "mask is torch.float32, expected bool"),
        (TypeError, {"mask": "here"}, "mask is a str, expected a NumPy, CuPy or torch array"),
        (ValueError, {"mask": torch.ones(4, 6).bool()}, r"mask has shape \(4, 6\), expected \(4, 5\) or"),
        (ValueError, {"mask": torch.ones(2, 4, 5).bool()}, r"mask has shape \(2, 4, 5\), expected \(4, 5\) or"),
        (ValueError, {"mask": torch.ones(5).bool()}, r"mask has shape \(5,\), expected \(4, 5\) or"),
        (ValueError, {"mask": torch.ones(4, 5, device="meta").bool()}, "mask is on meta, expected src's device cpu"),
        (TypeError, {"weights": image.long()}, "weights is torch.int64, expected a dtype of src's or bool"),
        (ValueError, {"weights": torch.rand(4, 1)}, r"weights has shape \(4, 1\), expected \(4, 5\) or"),
        (ValueError, {"weights": image - 2}, "weights has values from -.* expected numbers from 0 to 1e.30"),
        (ValueError, {"weights": bad}, "weights has values from nan to nan, expected numbers from 0"),
        (ValueError, {"weights": image / 0}, "weights has values from .* to inf, expected numbers from 0"),
        (ValueError, {"radius": -1}, "radius is -1, expected a whole number of pixels from 0 to 127"),
        (ValueError, {"radius": 128}, "radius is 128, expected a whole number of pixels from 0 to 127"),
        (ValueError, {"radius": 1.5}, "radius is 1.5, expected a whole number"),
        (ValueError, {"sigma_color": 0.0}, "sigma_color is 0.0, expected a number > 0"),
        (ValueError, {"sigma_space": float("nan")}, "sigma_space is nan, expected a number > 0"),
    )


@pytest.mark.parametrize(("error", "change", "message"), message_cases(), ids=lambda v: v if isinstance(v, str) else "")
def test_errors(error, change, message):
    arguments = {"src": torch.rand(4, 5), "guide": torch.rand(3, 4, 5), **SETTINGS}
    with pytest.raises(error, match=f"^weighted_median: {message}"):
        weighted_median(**{**arguments, **change})
