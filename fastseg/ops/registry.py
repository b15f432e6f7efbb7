"""The torch.library namespace ``fastseg``, in which every op registers its schema, its kernels and its fake."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.library import Library

_library = Library("fastseg", "DEF")


def register(schema: str, implementation: Callable, fake: Callable) -> torch._ops.OpOverload:
    """Define an op and return it.

    ``implementation`` runs on CPU and CUDA tensors and chooses its kernel itself (fastseg/backends/select.py).
    Autocast needs no rule here: like torch's own instance_norm, every op works in the dtype it is given. Autograd is an
    ``autograd.Function`` around the op: half the cost a call of ``register_autograd``.
    """
    name = schema[: schema.index("(")]
    # Inductor must hand over the strides that the fake saw: the output's layout follows the input's.
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
    for key in ("CPU", "CUDA"):
        _library.impl(name, implementation, key)
    torch.library.register_fake(f"fastseg::{name}", fake, lib=_library)
    overload: torch._ops.OpOverload = getattr(torch.ops.fastseg, name).default
    return overload
