"""Launches the CPU kernels of the attention gate. No autograd and no checks here: see fastseg/ops."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastseg._C as _C
from fastseg.backends.attention_gate_call import gate_vectors
from fastseg.backends.cpu import pointwise_conv_backward, pointwise_conv_forward
from fastseg.backends.memory import empty_like, new_empty
from fastseg.backends.views import as_layout, layout_of, optional_view, three_axes, view


class _Call(NamedTuple):
    """The arguments of one call as the kernel takes them; the tensors are kept alive while it runs."""

    x: Tensor
    gating: Tensor  # of x's size, or in the compute dtype on its own grid
    coarse: Tensor | None  # Wg g there
    weight: Tensor
    vectors: Tensor

    def shown(self) -> Any:
        x, size = self.x, three_axes(self.x.shape[2:])
        features, inputs = self.weight.shape
        same = self.coarse is None
        sizes = (
            x.shape[0],
            x.shape[1],
            features,
            inputs - x.shape[1],
            *size,
            *(size if same else three_axes(self.gating.shape[2:])),
        )
        gating = view(self.gating) if same else None
        parameters = self.weight.data_ptr(), self.vectors.data_ptr()
        return sizes, view(x), gating, optional_view(self.coarse), parameters


def _readable(t: Tensor) -> Tensor:
    return t if layout_of(t) else t.contiguous()


def _call(
    x: Tensor,
    gating: Tensor,
    x_weight: Tensor,
    gating_weight: Tensor,
    bias: Tensor | None,
    psi_weight: Tensor,
    psi_bias: Tensor | None,
) -> _Call:
    compute = torch.promote_types(x.dtype, torch.float32)
    of_x, of_gating = (t.to(compute).flatten(1) for t in (x_weight, gating_weight))
    coarse = None
    if gating.shape[2:] == x.shape[2:]:
        gating, weight = _readable(gating), torch.cat((of_x, of_gating), 1)
    else:
        gating, weight = as_layout(gating.to(compute), "channels_last"), of_x.contiguous()
        coarse = as_layout(pointwise_conv_forward(gating, gating_weight.to(compute), None), "channels_last")
    return _Call(_readable(x), gating, coarse, weight, gate_vectors(compute, bias, psi_weight, psi_bias))


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
    y = empty_like(call.x)
    _C.attention_gate_forward(call.shown(), view(y), torch.get_num_threads())
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
    call, grad = _call(x, gating, x_weight, gating_weight, bias, psi_weight, psi_bias), _readable(grad)
    dx, dgating = empty_like(call.x), empty_like(_readable(gating))
    dweight, dvectors = torch.empty_like(call.weight), torch.empty_like(call.vectors)
    dcoarse = None
    if call.coarse is not None:
        last = (call.coarse.shape[0], *call.coarse.shape[2:], call.coarse.shape[1])
        dcoarse = new_empty(last, call.coarse.dtype).movedim(-1, 1)
    _C.attention_gate_backward(
        call.shown(),
        view(grad),
        view(dx),
        view(dgating) if dcoarse is None else None,
        optional_view(dcoarse),
        dweight.data_ptr(),
        dvectors.data_ptr(),
        torch.get_num_threads(),
    )
    features, channels = x_weight.shape[:2]
    if dcoarse is None:
        dgating_weight = dweight[:, channels:].reshape(gating_weight.shape).clone()
    else:
        compute = call.weight.dtype
        on_grid, dgating_weight, _ = pointwise_conv_backward(
            dcoarse, call.gating, gating_weight.to(compute), [True, True, False]
        )
        dgating.copy_(on_grid)
    return (
        dx,
        dgating,
        dweight[:, :channels].reshape(x_weight.shape).clone(),
        dgating_weight,
        dvectors[:features].clone(),
        dvectors[features:-1].reshape(psi_weight.shape).clone(),
        dvectors[-1:].clone(),
    )
