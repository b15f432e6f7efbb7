"""Tensors that are cheap to compute are computed again in backward, and not kept for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_state = threading.local()


@contextmanager
def recomputing() -> Iterator[None]:
    """Operations in this block keep for backward how a tensor is made, where :func:`made_again` was told.

    Not for functions that ``torch.compile`` traces.
    """
    before = getattr(_state, "active", False)
    _state.active = True
    try:
        with saved_tensors_hooks(_pack, _unpack):
            yield
    finally:
        _state.active = before


def made_again(y: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """``y``; inside :func:`recomputing` whatever would keep it for backward keeps ``make`` instead.

    ``make`` returns y's values anew, without drawing random numbers. What it holds should be kept for backward anyway.
    """
    if getattr(_state, "active", False):
        # On the tensor itself: hooks see the very object that the operation was given.
        y._fastseg_make = make  # type: ignore[attr-defined]
    return y


def _pack(t: Tensor) -> Tensor | Callable[[], Tensor]:
    return getattr(t, "_fastseg_make", t)


def _unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    with torch.no_grad():
        return kept()


def values_of(y: Tensor) -> Callable[[], Tensor]:
    """What makes y's values in backward: as :func:`made_again` was told, or y itself."""
    make: Callable[[], Tensor] | None = getattr(y, "_fastseg_make", None)
    kept = y.detach()
    return (lambda: kept) if make is None else make
