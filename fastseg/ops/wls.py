"""Weighted-least-squares filtering (Farbman et al. 2008), solved exactly."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops import wls_arguments as arguments
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, as_tensor, check_numbers
from fastseg.ops.registry import register
from fastseg.ops.wls_arguments import MAX_ITERATIONS, NAME
from fastseg.ops.wls_system import OneSolve, WLSDecomposition, WLSResult, worst


def wls_filter(
    src: ArrayT,
    guide: Array | None = None,
    *,
    lambda_: float = 1.0,
    alpha: float = 1.2,
    eps: float = 1e-4,
    tol: float = 1e-5,
    max_iterations: int = MAX_ITERATIONS,
    on_failure: str = "error",
) -> ArrayT:
    """Edge-preserving smoothing: the u that minimises
    ``sum (u - src)^2 + lambda_ * sum over neighbours p, q of w_pq (u_p - u_q)^2``
    with ``w_pq = 1 / (|log guide_p - log guide_q|^alpha + eps)``.

    Farbman, Fattal, Lischinski, Szeliski, "Edge-preserving decompositions for multi-scale tone and detail
    manipulation", SIGGRAPH 2008. The minimum is found exactly, to the residual ``tol``, by conjugate gradients with a
    multigrid preconditioner (docs/wls.md). Differentiable with respect to ``src``, any number of times.

    Args:
        src: (..., H, W), NumPy, CuPy or torch array; floating point or integers. Any H and W from 1 up.
        guide: (H, W), or (..., H, W) that broadcasts to ``src``, values >= 0 in any unit; None: each slice of ``src``
            guides itself. Slices that share a guide share its set-up.
        lambda_: weight of smoothness, >= 0.
        alpha: how sharply weights fall with differences of the logarithm, > 0.
        eps: what bounds weights where neighbours are equal, > 0.
        tol: of ``|src - A u| / |src|`` for each slice, in float64, before u is rounded to its dtype; 1e-10 can be had.
        max_iterations: steps after which a solve gives up.
        on_failure: ``"error"`` or ``"warn"`` where ``tol`` is not reached.

    Returns:
        Array of the kind, shape, dtype and device of ``src``. Integers are rounded to the nearest.

    Raises:
        ValueError: NaN or infinity, a negative guide, shapes that do not fit, a parameter out of its range, a guide
            that requires a gradient (the reference backend differentiates it).
        TypeError: no array of real numbers.
        fastseg.ops.WLSConvergenceError: ``tol`` was not reached.
    """
    solution, _, _ = _solve(NAME, src, guide, lambda_, alpha, eps, tol, max_iterations, on_failure)
    return as_kind_of(src, arguments.rounded_to(arguments.source_dtype(src), solution))


def wls_solve(
    src: ArrayT,
    guide: Array | None = None,
    *,
    lambda_: float = 1.0,
    alpha: float = 1.2,
    eps: float = 1e-4,
    tol: float = 1e-5,
    max_iterations: int = MAX_ITERATIONS,
    on_failure: str = "error",
) -> WLSResult[ArrayT]:
    """:func:`wls_filter` with the steps that it took and the residual that it reached. Same arguments and errors."""
    solution, steps, residuals = _solve("wls_solve", src, guide, lambda_, alpha, eps, tol, max_iterations, on_failure)
    result = as_kind_of(src, arguments.rounded_to(arguments.source_dtype(src), solution))
    return WLSResult(result, *worst(steps, residuals))


def wls_decompose(
    image: ArrayT,
    levels: int = 3,
    *,
    guide: Array | None = None,
    lambda_: float = 1.0,
    factor: float = 2.0,
    iterated: bool = True,
    alpha: float = 1.2,
    eps: float = 1e-4,
    tol: float = 1e-5,
) -> WLSDecomposition[ArrayT]:
    """Base layers R0 (the image), R1, ..., R_levels and the detail layers between them.

    Farbman et al. 2008, section 3: ``iterated`` smooths each layer out of the one before, R_{i+1} = WLS(R_i) with
    ``lambda_ * factor^i``; otherwise each one comes from the image itself, R_{i+1} = WLS(image) with that lambda.

    Args:
        image: (..., H, W), floating point, values >= 0 unless there is a guide. Each slice guides itself.
        levels: how many times to smooth, >= 1.
        guide: (..., H, W) that broadcasts to ``image``, such as the luminance of a colour image. With ``iterated`` it
            is smoothed along, so that layer i is guided by the guide's own layer i.
        lambda_, factor: weight of smoothness of the first level and what it is multiplied with from level to level.
        iterated: see above.
        alpha, eps, tol: as in :func:`wls_filter`.

    Returns:
        ``bases`` and ``details``, arrays of the image's kind, shape and dtype.

    Raises:
        ValueError: as :func:`wls_filter`; ``levels`` or ``factor`` out of their range.
        TypeError: integers, which could not hold negative details.
    """
    op = "wls_decompose"
    if levels < 1:
        raise ValueError(f"{op}: levels is {levels}, expected at least 1")
    if not 0 < factor < float("inf"):
        raise ValueError(f"{op}: factor is {factor}, expected a finite number > 0")
    if not arguments.source_dtype(image).is_floating_point:
        raise TypeError(f"{op}: image is {arguments.source_dtype(image)}, expected floating point")
    bases: list[Any] = [image]
    layer_guide = guide
    for level in range(levels):
        weight = lambda_ * factor**level
        source = bases[-1] if iterated else image
        bases.append(wls_filter(source, layer_guide, lambda_=weight, alpha=alpha, eps=eps, tol=tol))
        if iterated and level + 1 < levels:
            smoothed = bases[-1]
            if guide is not None:
                smoothed = wls_filter(layer_guide, lambda_=weight, alpha=alpha, eps=eps, tol=tol)
            # Smoothing keeps numbers >= 0 but for what tol allows, of which no logarithm could be taken.
            layer_guide = (smoothed.detach() if isinstance(smoothed, Tensor) else smoothed).clip(0)
    details = [finer - coarser for finer, coarser in itertools.pairwise(bases)]
    return WLSDecomposition(bases, details)


def _solve(
    op: str,
    src: Array,
    guide: Array | None,
    lambda_: float,
    alpha: float,
    eps: float,
    tol: float,
    max_iterations: int,
    on_failure: str,
) -> tuple[Tensor, Tensor, Tensor]:
    arguments.check_parameters(op, lambda_, alpha, eps)
    arguments.check_solve(op, tol, max_iterations, on_failure)
    if guide is None:
        guide = as_tensor(op, "src", src).detach()
    runs_reference = select.runs_reference(NAME, as_tensor(op, "src", src))
    of_guide = arguments.guide_tensor(op, guide, differentiable=runs_reference)
    source = arguments.source_tensor(op, src, of_guide)
    if runs_reference:
        arguments.check_guide(op, of_guide)
        check_numbers(op, "src", source)
        # The diagonal alone preconditions it: it takes as many steps as it needs.
        solution, steps, residuals = reference.wls_filter(source, of_guide, lambda_, alpha, eps, tol)
        arguments.judge(op, steps, residuals, tol, on_failure)
        return solution, steps, residuals
    rest = (float(lambda_), float(alpha), float(eps), float(tol), int(max_iterations), on_failure, "src")
    if torch.is_grad_enabled() and source.requires_grad:
        return _Filter.apply(source, of_guide, *rest)
    return _filter_op(source, of_guide, *rest)


class _Filter(torch.autograd.Function):
    """The matrix is symmetric: the gradient of src is one more solve, with the gradient as the source."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, guide: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(guide)
        ctx.rest = rest
        solution, steps, residuals = _filter_op(source, guide, *rest)
        ctx.mark_non_differentiable(steps, residuals)
        return solution, steps, residuals

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        (guide,) = ctx.saved_tensors
        gradient = _Filter.apply(grad, guide, *ctx.rest[:-1], "the gradient")[0]
        return gradient, None, *(None for _ in ctx.rest)


def _forward(
    source: Tensor,
    guide: Tensor,
    lambda_: float,
    alpha: float,
    eps: float,
    tol: float,
    max_iterations: int,
    on_failure: str,
    name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    # Numbers are looked at here and not before, where torch.compile would have to break its graph.
    check_numbers(NAME, name, source)
    if source.numel() == 0:
        return _forward_fake(source, guide, lambda_, alpha, eps, tol, max_iterations, on_failure, name)
    made = OneSolve(guide, lambda_, alpha, eps)
    solution, steps, residuals = made.run(source, tol, max_iterations)
    arguments.judge(NAME, steps, residuals, tol, on_failure)
    return solution.contiguous(), steps.to(source.device), residuals.to(source.device)


def _forward_fake(
    source: Tensor,
    guide: Tensor,
    lambda_: float,
    alpha: float,
    eps: float,
    tol: float,
    max_iterations: int,
    on_failure: str,
    name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    lead = source.shape[:-2]
    return (
        source.new_empty(source.shape),
        source.new_empty(lead, dtype=torch.int64),
        source.new_empty(lead, dtype=torch.float64),
    )


_filter_op = register(
    "wls_filter(Tensor src, Tensor guide, float lambda_, float alpha, float eps, float tol, int max_iterations, "
    "str on_failure, str name) -> (Tensor solution, Tensor iterations, Tensor residual)",
    _forward,
    _forward_fake,
)

__all__ = ["wls_decompose", "wls_filter", "wls_solve"]
