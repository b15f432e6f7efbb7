"""Reference of the fast global smoother: every line of the image at a time, pixel after pixel."""

from __future__ import annotations

import torch
from torch import Tensor

# The arguments of these functions are those of fastseg.ops.


def fast_global_smoother(
    src: Tensor, guide: Tensor, *, lambda_: float, sigma: float, iterations: int = 3, attenuation: float = 0.25
) -> Tensor:
    compute = torch.promote_types(src.dtype, torch.float32)
    channels = guide.to(compute)
    if guide.ndim == 2:
        channels = channels.unsqueeze(0)
    u = src.to(compute)
    weights = {axis: torch.exp(-channels.diff(dim=axis).norm(dim=-3) / sigma) for axis in (-1, -2)}
    if guide.ndim == 4:  # (B, H, W) beside (B, C, H, W)
        weights = {axis: w.unsqueeze(1) for axis, w in weights.items()}
    for t in range(iterations):
        for axis in (-1, -2):
            u = _solve(u, lambda_ * attenuation**t * weights[axis], axis)
    return (u if src.dtype.is_floating_point else u.round()).to(src.dtype)


def _solve(f: Tensor, links: Tensor, axis: int) -> Tensor:
    """(I + L) u = f along ``axis``, L the Laplacian of a chain with these links between neighbours.

    Gaussian elimination, written in averages (csrc/cpu/fast_global_smoother_lines.h): nothing cancels.
    """
    values, chain = f.unbind(axis), links.unbind(axis)
    forward, carries = [values[0]], []
    e: Tensor | float = 1.0
    for value, link in zip(values[1:], chain, strict=True):
        carry = link / (e + link)
        e = 1 + carry * e
        carries.append(carry)
        forward.append(forward[-1] + (value - forward[-1]) / e)
    u = [forward[-1]]
    for value, carry in zip(reversed(forward[:-1]), reversed(carries), strict=True):
        u.append(value + carry * (u[-1] - value))
    return torch.stack(u[::-1], axis)
