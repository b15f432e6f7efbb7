"""The attention gate in Triton.

Bytes to move, u is one pass over x, v over the features (in float32), G the gating signal:

    forward    2u + G: read x and gating, write y; x is read again from the cache, to be scaled
    backward   one kernel reads grad, x and gating and writes v: the gradient before relu. Products with it are the
               vendor's: there is nothing to be gained on 1x1 convolutions

A gating signal on another grid is multiplied there, by the vendor's routine too, and interpolated in the kernel; the
adjoint of that is a product with a small matrix along each axis. No atomics: results are deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastseg.backends.attention_gate_call import gate_vectors
from fastseg.backends.triton import attention_gate_kernels as kernels
from fastseg.backends.triton.tensors import alignment, compute_dtype, in_layout, launch, strided
from fastseg.backends.views import Layout, layout_of, three_axes

MOST_FEATURES = 16  # of a program at a time: a thread has all of a pixel's, and loads weights 16 bytes wide
TILE_BYTES = 8 * 1024  # of features, in the compute dtype
WARPS = 4


class _Call(NamedTuple):
    """The tensors of one call, and what every kernel is launched with."""

    x: Tensor
    layout: Layout
    weight: Tensor  # [inputs, features], in the compute dtype: of x, then of gating where that has x's size
    vectors: Tensor  # bias, psi's weight and psi's bias
    gating: Tensor | None
    coarse: Tensor | None
    sizes: tuple[int, ...]

    def operands(self) -> tuple[Any, ...]:
        return strided(self.x, self.layout), in_layout(self.gating, self.layout), self.coarse, self.weight, self.vectors

    def constants(self, *views: Any) -> dict[str, Any]:
        inner = self.x.shape[2:].numel()
        if self.layout == "channels_last":
            inner = self.x.shape[1] if self.gating is None else _common(self.x.shape[1], self.gating.shape[1])
        features = min(triton.next_power_of_2(self.weight.shape[1]), MOST_FEATURES)
        pixels = min(TILE_BYTES // self.weight.element_size() // features, 128)
        largest = max(self.x.shape[2:].numel(), 0 if self.coarse is None else self.coarse.shape[2:].numel())
        return {
            # Half of what 32 bits hold leaves room for tiles that reach beyond the image.
            "INDEX": tl.int32 if largest < 2**30 else tl.int64,
            "CHANNELS_LAST": self.layout == "channels_last",
            "ALIGN": alignment(inner, *views),
            "BLOCK_F": features,
            "BLOCK_C": TILE_BYTES // self.weight.element_size() // pixels,
            "BLOCK_S": pixels,
        }


def _common(a: int, b: int) -> int:
    """What divides both, as far as powers of two up to 16 go."""
    return next(power for power in (16, 8, 4, 2, 1) if a % power == b % power == 0)


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return (torch.conv2d if x.ndim == 4 else torch.conv3d)(x, weight)


def _call(
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> _Call:
    compute = compute_dtype(x.dtype)
    layout = layout_of(x)
    if layout is None:
        x, layout = x.contiguous(), "rows"
    of_x, of_gating = (t.to(compute).flatten(1) for t in (x_weight, gating_weight))
    vectors = gate_vectors(compute, bias, psi_weight, psi_bias)
    same = gating.shape[2:] == x.shape[2:]
    weight = (torch.cat((of_x, of_gating), 1) if same else of_x).t().contiguous()
    coarse = None if same else _pointwise(gating.to(compute), gating_weight.to(compute)).contiguous()
    numbers = (x.shape[1], gating.shape[1], x_weight.shape[0], x.shape[2:].numel())
    sizes = (*numbers, *three_axes(x.shape[2:]), *three_axes(gating.shape[2:]))
    return _Call(x, layout, weight, vectors, gating if same else None, coarse, sizes)


def attention_gate_forward(
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> Tensor:
    call = _call(x, gating, x_weight, gating_weight, bias, psi_weight, psi_bias)
    y = torch.empty_like(call.x)
    source, other, *rest = call.operands()
    target = strided(y, call.layout)
    constants = call.constants(source, other, target)
    programs = x.shape[0] * triton.cdiv(x.shape[2:].numel(), constants["BLOCK_S"])
    with torch.cuda.device_of(x):
        launch(kernels.forward, programs, WARPS, source, other, *rest, target, *call.sizes, **constants)
    return y


def attention_gate_backward(
    grad: Tensor,
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gradients of x and gating in their layout and dtype, those of parameters in the dtype that kernels compute in."""
    call = _call(x, gating, x_weight, gating_weight, bias, psi_weight, psi_bias)
    x, features = call.x, x_weight.shape[0]
    source, other, *rest = call.operands()
    incoming = in_layout(grad, call.layout)
    constants = call.constants(incoming, source, other)
    programs = x.shape[0] * triton.cdiv(x.shape[2:].numel(), constants["BLOCK_S"])
    before = call.weight.new_empty((x.shape[0], features, *x.shape[2:]))
    attention = call.weight.new_empty((x.shape[0], 1, *x.shape[2:]))
    sums = call.weight.new_empty((programs, 2 * features + 1))
    with torch.cuda.device_of(x):
        launch(
            kernels.backward, programs, WARPS, incoming, source, other, *rest, before, attention, sums, *call.sizes,
            **constants,
        )  # fmt: skip
    compute = before.dtype
    dx = torch.empty_like(x)
    dx.copy_(torch.addcmul(_pointwise(before, x_weight.to(compute).transpose(0, 1)), grad.to(compute), attention))
    on_grid = before if call.coarse is None else _to_grid(before, gating.shape[2:])
    dgating = torch.empty_like(gating if layout_of(gating) else gating.contiguous())
    dgating.copy_(_pointwise(on_grid, gating_weight.to(compute).transpose(0, 1)))
    dvectors = sums.sum(0)
    return (
        dx,
        dgating,
        _correlated(before, x.to(compute)).view(x_weight.shape),
        _correlated(on_grid, gating.to(compute)).view(gating_weight.shape),
        dvectors[:features].clone(),
        dvectors[features:-1].clone().view(psi_weight.shape),
        dvectors[-1:].clone(),
    )


def _correlated(grad: Tensor, x: Tensor) -> Tensor:
    """Sums over pixels of products, [features, channels]."""
    return torch.matmul(grad.flatten(2), x.flatten(2).transpose(1, 2)).sum(0)


def _to_grid(fine: Tensor, size: Sequence[int]) -> Tensor:
    """The adjoint of linear interpolation from a grid of ``size``, axis by axis; torch's own uses atomics."""
    for axis, coarse in enumerate(size, start=2):
        matrix = _interpolation(fine.shape[axis], coarse, fine)
        fine = torch.tensordot(fine, matrix, ([axis], [0])).movedim(-1, axis)
    return fine.contiguous()


def _interpolation(fine: int, coarse: int, like: Tensor) -> Tensor:
    """[fine, coarse]: the weights of coarse pixels."""
    at = (torch.arange(fine, device=like.device, dtype=torch.float64) + 0.5) * coarse / fine - 0.5
    distance = at.clamp(0, coarse - 1).unsqueeze(1) - torch.arange(coarse, device=like.device)
    return (1 - distance.abs()).clamp_min(0).to(like.dtype)
