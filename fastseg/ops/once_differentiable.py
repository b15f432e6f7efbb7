"""Backward functions that refuse to be differentiated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import function


def once_differentiable(backward: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    """As torch's, and also where no gradient that comes in requires one: gradients depend on what was saved too.

    The first gradient of a graph never requires one itself, and a gradient penalty would be taken for a constant.
    """
    once = function.once_differentiable(backward)

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # torch.compile has an error of its own for this.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            grads = tuple(None if grad is None else grad.detach().requires_grad_() for grad in grads)
        return once(ctx, *grads)

    return checked
