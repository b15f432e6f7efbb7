"""The fast global smoother: edge-preserving smoothing by tridiagonal solves along rows and columns."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastseg import reference
from fastseg.backends import select
from fastseg.ops.arrays import Array, ArrayT, as_kind_of, as_tensor, check_numbers, reads_numbers
from fastseg.ops.guided_images import check_guided_images, in_batches
from fastseg.ops.registry import register

_NAME = "fast_global_smoother"
# What is left after squaring and adding up in float32.
_LARGEST_LAMBDA = 1e20
_SIGMAS = (1e-20, 1e20)


def fast_global_smoother(
    src: ArrayT, guide: Array, *, lambda_: float, sigma: float, iterations: int = 3, attenuation: float = 0.25
) -> ArrayT:
    """Smooth images and keep the edges of a guide: weighted least squares, one image axis at a time.

    Each iteration minimises ``sum (u - f)^2 + lambda_t * sum w (u_i - u_{i+1})^2`` along every row of f = src, then
    along every column of the result, and then multiplies lambda_t, which starts at ``lambda_``, by ``attenuation``.
    Neighbouring pixels are held together by ``w = exp(-|dI| / sigma)``; |dI| is the Euclidean distance of their guide
    colours. Min et al. 2014, "Fast global image smoothing based on weighted least squares"; weights and attenuation
    are those of OpenCV's ``ximgproc.fastGlobalSmootherFilter``. src is differentiable, as often as needed; its
    gradient is the same filter with its passes in reversed order.

    Args:
        src: (..., H, W): NumPy, CuPy or torch; float32, float64, float16, bfloat16 or uint8.
        guide: any of these dtypes, on src's device. (H, W), (1, H, W) or (3, H, W): one for all images of src.
            (B, 1, H, W) or (B, 3, H, W): one for each src[b], and src is (B, C, H, W).
        lambda_: from 0 (nothing happens) to 1e20: how much is smoothed. Reach grows as its square root.
        sigma: > 0, in the guide's units: 0 to 255 for uint8. Steps far above it are edges.
        iterations: >= 1. More of them leave fewer streaks along the axes.
        attenuation: >= 0: lambda of an iteration over that of the one before.

    Returns:
        An array of src's kind, device, shape and dtype; for uint8 rounded to nearest. Computed in float32, in float64
        for float64 src. Up to rounding, no value is above the largest of its image or below the smallest.

    Raises:
        ValueError: sizes that differ or are empty, a wrong number of guide channels, a number out of its range,
            different devices, NaN or infinity (not looked for under torch.compile), or a guide that requires grad.
        TypeError: another dtype, or no array.
    """
    image, other = as_tensor(_NAME, "src", src), as_tensor(_NAME, "guide", guide)
    check_guided_images(_NAME, image, other)
    if other.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{_NAME}: guide requires grad, expected one that does not: only src is differentiable. Pass guide.detach()"
        )
    _check_parameters(lambda_, sigma, iterations, attenuation)
    if reads_numbers():
        check_numbers(_NAME, "src", image)
        check_numbers(_NAME, "guide", other)
    return as_kind_of(src, _smooth(image, other.detach(), lambda_, sigma, iterations, attenuation))


def _smooth(src: Tensor, guide: Tensor, lambda_: float, sigma: float, iterations: int, attenuation: float) -> Tensor:
    if select.runs_reference(_NAME, src):
        return reference.fast_global_smoother(
            src, guide, lambda_=lambda_, sigma=sigma, iterations=int(iterations), attenuation=attenuation
        )
    images, guides = in_batches(src, guide)
    parameters = float(lambda_), float(sigma), int(iterations), float(attenuation), False
    if torch.is_grad_enabled() and images.requires_grad:
        result: Tensor = _FastGlobalSmoother.apply(images, guides, *parameters)
    else:
        result = _op(images, guides, *parameters)
    return result.view(src.shape)


def _check_parameters(lambda_: float, sigma: float, iterations: int, attenuation: float) -> None:
    if not 0 <= lambda_ <= _LARGEST_LAMBDA:  # written so that NaN is refused
        raise ValueError(f"{_NAME}: lambda_ is {lambda_}, expected a number from 0 to {_LARGEST_LAMBDA:g}")
    if not _SIGMAS[0] <= sigma <= _SIGMAS[1]:
        raise ValueError(f"{_NAME}: sigma is {sigma}, expected a number > 0, from {_SIGMAS[0]:g} to {_SIGMAS[1]:g}")
    if not (iterations >= 1 and iterations == int(iterations)):
        raise ValueError(f"{_NAME}: iterations is {iterations}, expected a whole number >= 1")
    if not 0 <= attenuation < math.inf:
        raise ValueError(f"{_NAME}: attenuation is {attenuation}, expected a finite number >= 0")
    largest = _LARGEST_LAMBDA / max(lambda_, 1e-300)
    if attenuation > 1 and (iterations - 1) * math.log(attenuation) > math.log(largest):
        raise ValueError(
            f"{_NAME}: attenuation is {attenuation}, expected one with which lambda stays below {_LARGEST_LAMBDA:g} "
            f"in all {iterations} iterations"
        )


class _FastGlobalSmoother(torch.autograd.Function):
    """Every solve is a symmetric map: the gradient runs the same passes in reversed order, and so does its own."""

    @staticmethod
    def forward(ctx: Any, src: Tensor, guide: Tensor, *parameters: Any) -> Tensor:
        ctx.save_for_backward(guide)
        ctx.parameters = parameters
        return _op(src, guide, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (guide,) = ctx.saved_tensors
        *parameters, adjoint = ctx.parameters
        return _FastGlobalSmoother.apply(grad, guide, *parameters, not adjoint), None, *[None] * len(ctx.parameters)


def _forward(
    src: Tensor, guide: Tensor, lambda_: float, sigma: float, iterations: int, attenuation: float, adjoint: bool
) -> Tensor:
    if src.numel() == 0:
        return src.new_empty(src.shape)
    return select.kernel(_NAME, src).fast_global_smoother(src, guide, lambda_, sigma, iterations, attenuation, adjoint)


def _forward_fake(
    src: Tensor, guide: Tensor, lambda_: float, sigma: float, iterations: int, attenuation: float, adjoint: bool
) -> Tensor:
    return src.new_empty(src.shape)


_op = register(
    "fast_global_smoother(Tensor src, Tensor guide, float lambda_, float sigma, int iterations, float attenuation, "
    "bool adjoint) -> Tensor",
    _forward,
    _forward_fake,
)
