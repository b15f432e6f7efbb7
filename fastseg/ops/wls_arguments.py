"""Arguments of the wls family's functions: checks, dtypes, and what a solve that fails says."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from fastseg.ops import checks
from fastseg.ops.arrays import Array, as_tensor, check_numbers, reads_numbers

NAME = "wls_filter"
#: What ``max_iterations`` is unless told: ten times what images need, also with weights that jump everywhere.
MAX_ITERATIONS = 500
_ON_FAILURE = ("error", "warn")
_PIXELS = 1 << 40


class WLSConvergenceError(RuntimeError):
    """A solve has not reached its tolerance."""


class WLSConvergenceWarning(UserWarning):
    """A solve has not reached its tolerance, and its result is returned all the same."""


def guide_tensor(op: str, guide: Array, differentiable: bool = False) -> Tensor:
    """The guide in float32, or float64 if it is that."""
    tensor = as_tensor(op, "guide", guide)
    if tensor.requires_grad and not differentiable:
        raise ValueError(
            f"{op}: guide requires a gradient, which is not computed; expected guide.detach(), or "
            'fastseg.backend("reference") around the call, where torch differentiates it'
        )
    check_shape(op, "guide", tensor)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_shape(op: str, name: str, tensor: Tensor) -> None:
    if tensor.ndim < 2 or 0 in tensor.shape[-2:]:
        raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected (..., H, W) with at least one pixel")
    if tensor.shape[-2] * tensor.shape[-1] > _PIXELS:
        raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected at most 2^40 pixels")
    if tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise TypeError(f"{op}: {name} is {tensor.dtype}, expected real numbers")


def check_guide(op: str, guide: Tensor) -> None:
    if not reads_numbers() or guide.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(guide.detach())).tolist()  # one look; NaN comes through
    if low >= 0 and high < math.inf:
        return
    check_numbers(op, "guide", guide)
    raise ValueError(f"{op}: guide holds {low}, expected numbers >= 0: its logarithm is taken")


def check_parameters(op: str, lambda_: float, alpha: float, eps: float) -> None:
    checks.check_not_negative(op, "lambda_", lambda_)
    for name, value in (("alpha", alpha), ("eps", eps)):
        if not 0 < value < math.inf:
            raise ValueError(f"{op}: {name} is {value}, expected a finite number > 0")


def check_solve(op: str, tol: float, max_iterations: int, on_failure: str) -> None:
    if not 0 < tol < 1:
        raise ValueError(f"{op}: tol is {tol}, expected a number between 0 and 1")
    if max_iterations < 1:
        raise ValueError(f"{op}: max_iterations is {max_iterations}, expected at least 1")
    checks.check_choice(op, "on_failure", on_failure, _ON_FAILURE)


def source_tensor(op: str, src: Array, guide: Tensor) -> Tensor:
    """The source in float32, or float64 if it is that, checked against the guide."""
    tensor = as_tensor(op, "src", src)
    check_shape(op, "src", tensor)
    if tensor.shape[-2:] != guide.shape[-2:]:
        raise ValueError(
            f"{op}: src has shape {tuple(tensor.shape)}, expected the guide's height and "
            f"width {tuple(guide.shape[-2:])}"
        )
    lead, own = tensor.shape[:-2], guide.shape[:-2]
    aligned = lead[len(lead) - len(own) :]
    if len(own) > len(lead) or any(mine not in (1, theirs) for mine, theirs in zip(own, aligned, strict=True)):
        raise ValueError(
            f"{op}: guide has shape {tuple(guide.shape)}, expected one that broadcasts to src's {tuple(tensor.shape)}"
        )
    checks.check_device(op, "guide", guide, tensor)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def source_dtype(src: Array) -> torch.dtype:
    return as_tensor(NAME, "src", src).dtype


def rounded_to(dtype: torch.dtype, solution: Tensor) -> Tensor:
    """To the source's dtype; integers are rounded to the nearest. A mean of numbers leaves their range no more than
    the residual does, which is cut off."""
    if dtype.is_floating_point:
        return solution.to(dtype)
    limits = torch.iinfo(dtype)
    return solution.round().clamp(limits.min, limits.max).to(dtype)


def judge(op: str, steps: Tensor, residuals: Tensor, tol: float, on_failure: str) -> None:
    """An error or a warning where a slice has not reached ``tol``."""
    if bool((residuals <= tol).all()):
        return
    worst = int(residuals.nan_to_num(math.inf).argmax())
    text = (
        f"{op}: the residual of slice {worst} is {residuals.flatten()[worst].item():.3g} after "
        f"{steps.flatten()[worst].item()} steps, expected at "
        f"most tol = {tol:g}. Allow more steps (max_iterations), ask for less (tol; float64 itself ends at about "
        "2e-15 lambda_ / eps), or for gentler weights (smaller lambda_ or alpha, larger eps)"
    )
    if on_failure == "error":
        raise WLSConvergenceError(text)
    warnings.warn(text, WLSConvergenceWarning, stacklevel=4)
