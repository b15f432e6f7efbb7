"""What users run today, beside what fastseg runs: the peers of every benchmark.

A peer is a function of the inputs; each prepares its inputs itself, outside of what is timed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastseg.ops import instance_norm_act

Function = Callable[..., Tensor]


def eager_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias), 0.01)


def inplace_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As nnU-Net writes it: LeakyReLU(inplace=True) on the output of the norm."""
    return F.leaky_relu_(F.instance_norm(x, weight=weight, bias=bias), 0.01)


def compiled_norm() -> Function:
    torch._dynamo.reset()
    return torch.compile(eager_norm, fullgraph=True)


def channels_last(t: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.to(memory_format=formats[t.ndim])


def same(t: Tensor) -> Tensor:
    return t


#: name -> (how the function is made, how its inputs are laid out)
NORM_PEERS: dict[str, tuple[Callable[[], Function], Callable[[Tensor], Tensor]]] = {
    "fastseg": (lambda: instance_norm_act, same),
    "fastseg channels-last": (lambda: instance_norm_act, channels_last),
    "eager": (lambda: eager_norm, same),
    "eager in-place act": (lambda: inplace_norm, same),
    "eager channels-last": (lambda: eager_norm, channels_last),
    "torch.compile": (compiled_norm, same),
}
