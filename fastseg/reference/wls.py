"""Weighted-least-squares filtering in plain torch: conjugate gradients in float64, scaled by the diagonal."""

from __future__ import annotations

import torch
from torch import Tensor


def wls_weights(guide: Tensor, lambda_: float, alpha: float, eps: float) -> tuple[Tensor, Tensor]:
    """lambda / (|difference of log guide|^alpha + eps) to the pixel on the right and to the one below, in float64."""
    log = torch.log(guide.double() + 2.2e-16)
    return (
        lambda_ / (log.diff(dim=-1).abs() ** alpha + eps),
        lambda_ / (log.diff(dim=-2).abs() ** alpha + eps),
    )


def wls_filter(
    src: Tensor,
    guide: Tensor,
    lambda_: float = 1.0,
    alpha: float = 1.2,
    eps: float = 1e-4,
    tol: float = 1e-12,
    max_iterations: int = 100_000,
) -> tuple[Tensor, Tensor, Tensor]:
    """(I + lambda L) u = src for src (..., H, W), guide broadcast to it: u, steps and relative residual of each."""
    right, below = wls_weights(guide, lambda_, alpha, eps)

    def apply(u: Tensor) -> Tensor:
        across, down = right * u.diff(dim=-1), below * u.diff(dim=-2)
        return u - (
            torch.nn.functional.pad(across, (0, 1))
            - torch.nn.functional.pad(across, (1, 0))
            + torch.nn.functional.pad(down, (0, 0, 0, 1))
            - torch.nn.functional.pad(down, (0, 0, 1, 0))
        )

    def total(u: Tensor) -> Tensor:
        return u.sum((-2, -1), keepdim=True)

    diagonal = 1 + sum(
        torch.nn.functional.pad(weight, pad)
        for weight, pads in ((right, ((0, 1), (1, 0))), (below, ((0, 0, 0, 1), (0, 0, 1, 0))))
        for pad in pads
    )
    source = src.double()
    wanted = tol**2 * total(source**2).detach()
    u, residual = torch.zeros_like(source), source
    direction = residual / diagonal
    product = total(residual * direction)
    steps = 0
    while steps < max_iterations and bool((total(residual.detach() ** 2) > wanted).any()):
        image = apply(direction)
        # Where a slice is solved, and where it is zero, its direction is zero too.
        length = product / total(direction * image).clamp_min(torch.finfo(torch.float64).tiny)
        u, residual = u + length * direction, residual - length * image
        scaled = residual / diagonal
        previous, product = product, total(residual * scaled)
        direction = scaled + product / previous.clamp_min(torch.finfo(torch.float64).tiny) * direction
        steps += 1
    left = total((source - apply(u)) ** 2) / total(source**2).clamp_min(torch.finfo(torch.float64).tiny)
    counts = torch.full(src.shape[:-2], steps, dtype=torch.int64, device=src.device)
    return u.to(src.dtype), counts, left.sqrt().reshape(src.shape[:-2]).detach()
