"""The linear system of weighted-least-squares filtering: set up once for a guide, solved for any number of sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops import wls_arguments as arguments
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, check_numbers
from fastseg.ops.wls_arguments import MAX_ITERATIONS, NAME


@dataclass(frozen=True)
class WLSResult(Generic[ArrayT]):
    """What a solve gives.

    Attributes:
        solution: array of the kind, shape and dtype of the source.
        iterations: steps of conjugate gradients that the slowest slice took.
        residual: the largest ``|g - A u| / |g|`` of a slice, in float64, before ``u`` was rounded to its dtype.
    """

    solution: ArrayT
    iterations: int
    residual: float


@dataclass(frozen=True)
class WLSDecomposition(Generic[ArrayT]):
    """Base layers, from the image itself to the smoothest one, and what each one lost against the one before.

    Attributes:
        bases: R0 = image, R1, ..., one more than there are details.
        details: R0 - R1, R1 - R2, ...
    """

    bases: list[ArrayT]
    details: list[ArrayT]


class WLSSystem:
    """``I + lambda L`` of a guide, ready to be solved for one source after the other.

    The set-up, about a tenth of a first solve, is done once. A system keeps 40 bytes a pixel (of 1 Mpx and more) and a
    solve needs another 36 while it runs, which on a GPU stay with the system. It may be shared by threads.

    Args:
        guide: (..., H, W), NumPy, CuPy or torch array, values >= 0: luminance, in any unit since only ratios matter.
            Leading dimensions are broadcast to those of a source. Computed on in float32, or float64 if it is that.
        lambda_: weight of smoothness, >= 0.
        alpha: how sharply weights fall with differences of the logarithm, > 0.
        eps: what bounds weights where neighbours are equal, > 0.

    Raises:
        ValueError: NaN, infinity or a negative number in ``guide``, wrong rank, a parameter out of its range.
        TypeError: ``guide`` is no array of numbers.
    """

    def __init__(self, guide: Array, lambda_: float = 1.0, alpha: float = 1.2, eps: float = 1e-4) -> None:
        tensor = arguments.guide_tensor("WLSSystem", guide)
        arguments.check_parameters("WLSSystem", lambda_, alpha, eps)
        arguments.check_guide("WLSSystem", tensor)
        self._guide = tensor.detach()
        self._parameters = (float(lambda_), float(alpha), float(eps))
        self._reference = select.runs_reference(NAME, tensor)
        self._systems: Iterable[Any] = [] if self._reference else self._set_up()

    def _set_up(self) -> Iterable[Any]:
        kernel = select.kernel(NAME, self._guide)
        return [kernel.wls_setup(one, *self._parameters) for one in _slices(self._guide)]

    def solve(
        self, src: ArrayT, *, tol: float = 1e-5, max_iterations: int = MAX_ITERATIONS, on_failure: str = "error"
    ) -> WLSResult[ArrayT]:
        """The solution of ``(I + lambda L) u = src``.

        Args:
            src: (..., H, W) on the guide's device; the guide's leading dimensions broadcast to its. Differentiable.
            tol: of ``|src - A u| / |src|`` for each slice, in float64.
            max_iterations: steps after which a solve gives up.
            on_failure: ``"error"`` or ``"warn"`` where ``tol`` is not reached.

        Returns:
            Solution, steps and residual.

        Raises:
            ValueError: wrong shape, NaN or infinity in ``src``, an argument out of its range.
            WLSConvergenceError: ``tol`` was not reached.
        """
        op = "WLSSystem.solve"
        source = arguments.source_tensor(op, src, self._guide)
        arguments.check_solve(op, tol, max_iterations, on_failure)
        check_numbers(op, "src", source)
        if self._reference:
            # The diagonal alone preconditions it: it takes as many steps as it needs.
            solution, steps, residuals = reference.wls_filter(source, self._guide, *self._parameters, tol=tol)
        else:
            report: list[Tensor] = []
            solution = _Solve.apply(source, self, tol, max_iterations, on_failure, report)
            steps, residuals = report[0], report[1]
        arguments.judge(op, steps, residuals, tol, on_failure)
        result = as_kind_of(src, arguments.rounded_to(arguments.source_dtype(src), solution))
        return WLSResult(result, *worst(steps, residuals))

    def run(self, source: Tensor, tol: float, max_iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        """Solution, steps and residual of each slice of (..., H, W), float32 or float64. Checks nothing."""
        kernel = select.kernel(NAME, source)
        grouped, restore = _grouped(source, self._guide.shape[:-2])
        solved = [
            kernel.wls_solve(system, channels, tol, max_iterations)
            for system, channels in zip(self._systems, grouped, strict=True)
        ]
        return (
            restore(torch.stack([solution for solution, _, _ in solved])),
            restore(torch.tensor([steps for _, steps, _ in solved], dtype=torch.int64)),
            restore(torch.tensor([residuals for _, _, residuals in solved], dtype=torch.float64)),
        )


class OneSolve(WLSSystem):
    """A system whose :meth:`run` is called once: each slice is set up when its turn comes, and given back after it."""

    def _set_up(self) -> Iterable[Any]:
        kernel = select.kernel(NAME, self._guide)
        return (kernel.wls_setup(one, *self._parameters, once=True) for one in _slices(self._guide))


class _Solve(torch.autograd.Function):
    """The matrix is symmetric: the gradient of the source is one more solve, with the gradient as the source."""

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, system: WLSSystem, tol: float, max_iterations: int, on_failure: str, report: list
    ) -> Tensor:
        ctx.arguments = (system, tol, max_iterations, on_failure)
        solution, *told = system.run(source, tol, max_iterations)
        report.extend(told)
        return solution

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        system, tol, max_iterations, on_failure = ctx.arguments
        report: list[Tensor] = []
        gradient = _Solve.apply(grad, system, tol, max_iterations, on_failure, report)
        arguments.judge("gradient of WLSSystem.solve", report[0], report[1], tol, on_failure)
        return gradient, None, None, None, None, None


def worst(steps: Tensor, residuals: Tensor) -> tuple[int, float]:
    """The most steps and the largest residual of any slice; 0 of none."""
    return (int(steps.max()), float(residuals.max())) if steps.numel() else (0, 0.0)


def _slices(guide: Tensor) -> Tensor:
    return guide.reshape(-1, *guide.shape[-2:])


def _grouped(source: Tensor, guide_shape: torch.Size) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(systems, channels, H, W) of (..., H, W), and the way back, for anything that is (systems, channels, ...)."""
    lead = source.shape[:-2]
    aligned = (1,) * (len(lead) - len(guide_shape)) + tuple(guide_shape)
    order = sorted(range(len(lead)), key=lambda axis: aligned[axis] == 1)  # axes with systems of their own first
    permuted = [lead[axis] for axis in order]
    systems = math.prod(aligned)
    channels = math.prod(lead) // systems if systems else 0

    def restore(grouped: Tensor) -> Tensor:
        return grouped.reshape((*permuted, *grouped.shape[2:])).movedim(tuple(range(len(order))), tuple(order))

    grouped = source.movedim(tuple(order), tuple(range(len(order))))
    return grouped.reshape(systems, channels, *source.shape[-2:]), restore
